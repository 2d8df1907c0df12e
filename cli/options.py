"""The options that several commands share: names, ranges, defaults. Other tools' spellings of them: spelling.py."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from cli import complete
from cli.option import Decorator, act
from cli.option import option as _option
from cli.values import AUTO, Kv, Nodes, Number, Size


def _all(*options: Decorator) -> Decorator:
    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


quiet_option = _option("-q", "--quiet", is_flag=True, help="Nothing on stderr but errors.")
draft_option = _option("--draft", multiple=True, default=("auto",), show_default=True, metavar="NAME",
                       shell_complete=complete.drafts,
                       help="auto, none, lookup, bundled, self, self:3bit, random or a model; repeatable.")
context_option = _option("--ctx-size", type=click.IntRange(min=2),
                         help="Positions; default the model's own.")
ram_option = _option("--ram", type=Size(), metavar="SIZE",
                     help="Memory that may be used in all, such as 12GiB; default what is free.")
vram_option = _option("--vram", type=Size(none=("0", "off")), metavar="SIZE",
                      help="The same of a CUDA device's memory, for converted models; 0 keeps off it.")
activations_option = _option("--activations", type=click.Choice(["8", "16"]), default="8", show_default=True,
                             help="Bits of the activations that quantised weights are multiplied with, on the CPU.")
kv_option = _option("--kv", type=Kv(), default=AUTO, show_default=True,
                    help="Format of the context's keys and values; auto is bf16 unless only a smaller one fits.")
COPIES = ["3bit"]
copy_option = act("--copy", type=click.Choice(COPIES),
                  help="Make a copy of the layers too, with which the model drafts for itself: --draft self:3bit.")
offline_option = _option("--offline", is_flag=True, help="Ask no network, whatever is missing.")
place_option = _option("--kv-place", type=click.Choice(["auto", "device", "host", "disk"]), default=AUTO, show_default=True,
                       help="Where the context's keys and values are; auto is the device, else the host, and never the disk.")
FORMATS = ["nf4", "int8", "bf16"]
to_option = _option("--to", type=click.Choice(FORMATS), help="Default nf4; a store stays what it is.")
to_or_keep_option = _option("--to", type=click.Choice([*FORMATS, "keep"]),
                            help="Default nf4; keep leaves Q4_0 and Q8_0 of a GGUF file as they are; a store stays what it is.")

model_options = _all(
    _option("-m", "--model", default="bundled", show_default=True, metavar="NAME",
            shell_complete=complete.models, help="A model that is here, bundled, or a folder."),
    draft_option,
    _option("--budget", type=Nodes(), default=AUTO, show_default=True,
            help="Nodes of the draft tree that one pass of the model checks; auto finds what is fastest."),
    _option("--draft-kv", type=click.Choice(["auto", "full", "window", "retrieval", "int8", "int4"]), default=AUTO,
            show_default=True, help="What a draft keeps of a long context; never changes the text."),
    kv_option,
    place_option,
    context_option,
    _option("--device", type=click.Choice(["auto", "cpu", "cuda", "mps"]), default="auto", help="Where to compute."),
    _option("--dtype", type=click.Choice(["auto", "fp32", "bf16", "fp16"]), default="auto", help="Precision to compute in."),
    ram_option,
    vram_option,
    _option("--quant", type=click.Choice(["nf4", "int8"]), help="Quantise the weights as they are loaded."),
    activations_option,
)

sampling_options = _all(
    _option("--temperature", type=Number(min=0, max=100), help="0 is greedy."),
    _option("--top-k", type=click.IntRange(min=0), help="Keep the k likeliest tokens; 0 keeps all."),
    _option("--top-p", type=Number(min=0, max=1, min_open=True),
            help="Keep the likeliest that together reach p; 1 keeps all."),
    _option("--min-p", type=Number(min=0, max=1),
            help="Keep tokens at least p times as likely as the best; 0 keeps all."),
    _option("--repeat-penalty", type=Number(min=0, min_open=True),
            help="Above 1 repeats less."),
    _option("--presence-penalty", type=Number(min=-100, max=100), help="Taken off once from tokens the answer holds."),
    _option("--frequency-penalty", type=Number(min=-100, max=100), help="Taken off for each time the answer holds a token."),
    _option("--seed", type=click.IntRange(min=0, max=2**64 - 1), help="Repeats an answer; random if not given."),
)

answer_options = _all(
    _option("-n", "--max-tokens", type=click.IntRange(min=1),
            help="Length; default until it ends."),
    _option("--stop", multiple=True, metavar="TEXT", help="Ends the answer before this text; repeatable."),
    _option("-s", "--system", metavar="TEXT", shell_complete=complete.text,
            help="System prompt; @FILE reads a file."),
    _option("--raw", is_flag=True, help="Use no chat template."),
    _option("-v", "--verbose", is_flag=True, help="Three lines on how much was drafted, and why."),
    _option("--stats/--no-stats", default=None, help="One line of figures on stderr; default on a terminal."),
    _option("--think/--no-think", default=None, help="Ask for thoughts first, or for none; default the template's."),
    _option("-R", "--hide-thoughts", is_flag=True, help="Show no thoughts."),
    _option("--color", type=click.Choice(["auto", "always", "never"]), default="auto", show_default=True,
            help="Colour and Markdown; auto is a terminal without NO_COLOR."),
    quiet_option,
)

cache_option = act("--cache", type=click.Path(path_type=Path), metavar="FILE",
                   help="Keeps what a long question takes to read, for the next that begins so.")
name_option = act("--name", metavar="NAME", help="Name in the model store; default the source's and the format.")

chat_options = _all(
    act("-f", "--file", "files", multiple=True, type=click.Path(path_type=Path),
        help="Text file to put before the first question; repeatable."),
    cache_option,
    act("-c", "--continue", "go_on", is_flag=True, help="Go on with the latest chat."),
    act("--session", metavar="NAME", shell_complete=complete.chats, help="Go on with the chat of that name, or begin it."),
    _option("--save/--no-save", default=True, help="Keep this chat as it goes; default yes."),
    _option("--history/--no-history", default=True, help="Keep what is typed for the Up key; default yes."),
)

convert_options = _all(
    to_or_keep_option,
    _option("--layout", type=click.Choice(["auto", "tile16", "rowmajor"]), default="auto", show_default=True,
            help="tile16 for the CPU's kernels, rowmajor for CUDA; auto is this machine's."),
    copy_option,
    act("--out", metavar="DIR", help="Where; default in the model store, by name."),
    name_option,
    quiet_option,
)

pull_options = _all(
    to_option,
    act("--revision", metavar="REV", help="Branch, tag or commit; as REPO@REV."),
    act("--draft", metavar="REPO2",
                 help="Fetch this one too, to draft with; none for none; by default the family's is offered."),
    copy_option,
    act("--keep-source", is_flag=True, help="Keep what was fetched, in the cache of huggingface_hub."),
    act("--dry-run", is_flag=True, help="Say what would be fetched, and nothing more."),
    act("-y", "--yes", is_flag=True, help="Yes to every question."),
    name_option,
    offline_option,
    quiet_option,
)

shape_options = _all(
    act("--shape", metavar="NAME", help="llama-3.1-70b, llama-3.1-8b, qwen2.5-32b, or a config.json."),
    act("--draft-shape", metavar="NAME",
        help="Of the draft: llama-3.2-1b, qwen2.5-0.5b, a config.json, or none; default the family's usual one."),
    to_option,
    act("--yes", is_flag=True, help="Take the disk that --shape needs without asking."),
)

plan_options = _all(
    draft_option,
    kv_option,
    place_option,
    context_option,
    ram_option,
    vram_option,
    to_or_keep_option,
    activations_option,
    act("--measure", is_flag=True, help="Measure this machine again."),
    offline_option,
    quiet_option,
)
