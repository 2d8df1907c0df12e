"""The options that several commands share: names, aliases, ranges, environment variables. One table of each."""

import math
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import click

AUTO = "auto"
Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]

FOREIGN = {  # other tools' options, and what does their work here
    "--n-gpu-layers": "specexec places layers itself; --vram SIZE bounds what it takes of the GPU, --device cpu keeps off it",
    "-ngl": "specexec places layers itself; --vram SIZE bounds what it takes of the GPU, --device cpu keeps off it",
    "--gpu-layers": "specexec places layers itself; --vram SIZE bounds what it takes of the GPU, --device cpu keeps off it",
    "--threads": "specexec uses every core; OMP_NUM_THREADS=N sets another number",
    "-t": "specexec uses every core; OMP_NUM_THREADS=N sets another number",
}


class Option(click.Option):
    """An option with one name in help and errors, however many spellings it answers to."""

    def __init__(self, names: Sequence[str], aliases: Sequence[str] = (), **settings: Any) -> None:
        super().__init__([*names, *aliases], **settings)
        self.aliases = aliases

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        with self._one_name(show_envvar=False):
            return super().get_help_record(ctx)

    def get_error_hint(self, ctx: click.Context | None) -> str:
        with self._one_name(show_envvar=True):
            return super().get_error_hint(ctx)

    @contextmanager
    def _one_name(self, show_envvar: bool) -> Iterator[None]:
        every = self.opts
        self.opts, self.show_envvar = [name for name in every if name not in self.aliases], show_envvar
        yield
        self.opts = every


def _option(*names: str, **settings: Any) -> Decorator:
    """A click option whose environment variable is SPECEXEC_ and its first long name."""
    long = next(name for name in names if name.startswith("--")).split("/")[0]
    variable = "SPECEXEC_" + long.removeprefix("--").replace("-", "_").upper()
    return click.option(*names, cls=Option, envvar=variable, **settings)


def _all(*options: Decorator) -> Decorator:
    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


class Number(click.FloatRange):
    """A finite number in a range: nan passes every comparison that click makes."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} is not a number.", param, ctx)
        return number


class Nodes(click.ParamType["int | str"]):
    """A number of nodes, or auto."""

    name = "auto|N"
    LARGEST = 1024

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | str:
        if value == AUTO:
            return AUTO
        try:
            nodes = int(value)
        except ValueError:
            self.fail(f"{value!r} is neither auto nor a number.", param, ctx)
        if not 0 <= nodes <= self.LARGEST:
            self.fail(f"{nodes} is not in the range 0<=x<={self.LARGEST}.", param, ctx)
        return nodes


class Size(click.ParamType[int]):
    """Bytes: a number with GiB, GB, MiB, MB or nothing behind it."""

    name = "SIZE"
    UNITS: ClassVar = {"": 1, "B": 1, "K": 2**10, "M": 2**20, "G": 2**30, "KB": 10**3, "MB": 10**6, "GB": 10**9,
                       "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", value)
        unit = self.UNITS.get(found[2].upper()) if found else None
        if found is None or unit is None or float(found[1]) <= 0:
            self.fail(f"{value} is no size: a number and GiB, GB, MiB or MB.", param, ctx)
        return int(float(found[1]) * unit)


quiet_option = _option("-q", "--quiet", is_flag=True, help="Nothing on stderr but errors.")
draft_option = _option("--draft", aliases=("--draft-model", "-md"), multiple=True, default=("auto",), show_default=True,
                       metavar="NAME", help="auto, none, lookup, bundled, random, or a model folder; repeatable.")
context_option = _option("--ctx-size", aliases=("--ctx", "--num-ctx", "--context-length"), type=click.IntRange(min=2),
                         help="Positions; default the model's own.")
ram_option = _option("--ram", type=Size(), metavar="SIZE",
                     help="Memory that may be used in all, such as 12GiB; default what is free.")
vram_option = _option("--vram", type=Size(), metavar="SIZE", help="The same of a CUDA device's memory, for converted models.")
activations_option = _option("--activations", type=click.Choice(["8", "16"]), default="16", show_default=True,
                             help="Bits of the activations that quantised weights are multiplied with, on the CPU.")
to_option = _option("--to", type=click.Choice(["nf4", "int8", "bf16"]), help="Default nf4; a store stays what it is.")

model_options = _all(
    _option("-m", "--model", aliases=("--target",), default="bundled", show_default=True, metavar="NAME",
            help="Model folder, or bundled."),
    draft_option,
    _option("--budget", aliases=("--draft-max", "--num-draft-tokens"), type=Nodes(), default=AUTO, show_default=True,
            help="Nodes of the draft tree that one pass of the model checks; auto finds what is fastest."),
    context_option,
    _option("--device", type=click.Choice(["auto", "cpu", "cuda", "mps"]), default="auto", help="Where to compute."),
    _option("--dtype", type=click.Choice(["auto", "fp32", "bf16", "fp16"]), default="auto", help="Precision to compute in."),
    ram_option,
    vram_option,
    _option("--quant", type=click.Choice(["nf4", "int8"]), help="Quantise the weights as they are loaded."),
    activations_option,
)

sampling_options = _all(
    _option("--temperature", aliases=("--temp",), type=Number(min=0, max=100), help="0 is greedy."),
    _option("--top-k", type=click.IntRange(min=0), help="Keep the k likeliest tokens; 0 keeps all."),
    _option("--top-p", type=Number(min=0, max=1, min_open=True),
            help="Keep the likeliest that together reach p; 1 keeps all."),
    _option("--min-p", type=Number(min=0, max=1),
            help="Keep tokens at least p times as likely as the best; 0 keeps all."),
    _option("--repeat-penalty", aliases=("--repetition-penalty",), type=Number(min=0, min_open=True),
            help="Above 1 repeats less."),
    _option("--presence-penalty", type=Number(min=-100, max=100), help="Taken off once from tokens the answer holds."),
    _option("--frequency-penalty", type=Number(min=-100, max=100), help="Taken off for each time the answer holds a token."),
    _option("--seed", type=click.IntRange(min=0, max=2**64 - 1), help="Repeats an answer; random if not given."),
)

answer_options = _all(
    _option("-n", "--max-tokens", aliases=("--n-predict", "--predict"), type=click.IntRange(min=1),
            help="Length; default until it ends."),
    _option("--stop", multiple=True, metavar="TEXT", help="Ends the answer before this text; repeatable."),
    _option("-s", "--system", aliases=("--system-prompt",), metavar="TEXT", help="System prompt; @FILE reads a file."),
    _option("--raw", is_flag=True, help="Use no chat template."),
    _option("-v", "--verbose", is_flag=True, help="Three lines on how much was drafted, and why."),
    _option("--stats/--no-stats", default=None, help="One line of figures on stderr; default on a terminal."),
    _option("--think/--no-think", default=None, help="Ask for thoughts first, or for none; default the template's."),
    _option("-R", "--hide-thoughts", is_flag=True, help="Show no thoughts."),
    _option("--color", type=click.Choice(["auto", "always", "never"]), default="auto", show_default=True,
            help="Colour and Markdown; auto is a terminal without NO_COLOR."),
    quiet_option,
)

name_option = _option("--name", metavar="NAME", help="Name in the model store; default the source's and the format.")

convert_options = _all(
    to_option,
    _option("--layout", type=click.Choice(["auto", "tile16", "rowmajor"]), default="auto", show_default=True,
            help="tile16 for the CPU's kernels, rowmajor for CUDA; auto is this machine's."),
    _option("--out", metavar="DIR", help="Where; default in the model store, by name."),
    name_option,
    quiet_option,
)

pull_options = _all(
    to_option,
    click.option("--revision", metavar="REV", help="Branch, tag or commit; as REPO@REV."),
    click.option("--draft", metavar="REPO2",
                 help="Fetch this one too, to draft with; none for none; by default the family's is offered."),
    click.option("--keep-source", is_flag=True, help="Keep what was fetched, in the cache of huggingface_hub."),
    click.option("--dry-run", is_flag=True, help="Say what would be fetched, and nothing more."),
    click.option("-y", "--yes", is_flag=True, help="Yes to every question."),
    name_option,
    quiet_option,
)

shape_options = _all(
    click.option("--shape", metavar="NAME", help="llama-3.1-70b, llama-3.1-8b, qwen2.5-32b, or a config.json."),
    click.option("--draft-shape", metavar="NAME",
                 help="Of the draft: llama-3.2-1b, qwen2.5-0.5b, a config.json, or none; default the family's usual one."),
    to_option,
    click.option("--yes", is_flag=True, help="Take the disk that --shape needs without asking."),
)

plan_options = _all(
    draft_option,
    context_option,
    ram_option,
    vram_option,
    to_option,
    activations_option,
    click.option("--measure", is_flag=True, help="Measure this machine again."),
    quiet_option,
)
