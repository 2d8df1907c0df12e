"""The engine of a GGUF file: llama.cpp, where all of the file fits in memory."""

from collections.abc import Callable

import torch

from cli.ledger import STORE_CONTEXT, demand, positions
from cli.models import ModelOptions
from offload.gguf import Gguf
from offload.gguf_plan import Whole, cell_bytes, plan_whole
from offload.machine import free_memory
from specexec.engines.device import TINY
from specexec.engines.families import admit
from specexec.engines.llamacpp import Model, has_gpu, listen
from specexec.engines.llamacpp_engine import CHUNK, LlamacppEngine
from specexec.errors import WrongUsage
from specexec.kv.sequences import MOST

EVERYTHING = 2**60  # bytes
PLAIN, CPU = 2, 64  # rows of a tree where nothing drafts, and where more would never be worth it to a CPU


def engine(model: Gguf, options: ModelOptions, tokens: int, stop: Callable[[], bool], drafts: int) -> LlamacppEngine:
    """tokens: that its tokenizer can produce; drafts: bytes of what drafts for it."""
    _check(model, options)
    context = positions(admit(model.config), options.context, STORE_CONTEXT)
    placed = placement(model, options, context, drafts)
    listen(options.verbose)
    threads = 1 if model.parameters < TINY else torch.get_num_threads()
    weights = Model(model.path, placed.gpu_layers)
    tree = _tree(options, placed.gpu_layers != 0)
    return LlamacppEngine(weights, tokens, context, cell_bytes(model), threads, model.wide, stop, tree)


def _tree(options: ModelOptions, on_gpu: bool) -> int:
    """Rows of the largest tree: llama.cpp takes longer over every pass, the larger a tree may be."""
    if options.drafts == ("none",):
        return PLAIN
    if options.nodes is not None:
        return max(PLAIN, min(options.nodes + 1, MOST))
    return MOST if on_gpu else CPU


def placement(model: Gguf, options: ModelOptions, context: int, drafts: int) -> Whole:
    """Raises TooLittleMemory."""
    vram = (options.vram or EVERYTHING) if options.device != "cpu" and has_gpu() else 0
    return plan_whole(model, options.ram or free_memory(), vram, demand(context, CHUNK, drafts))


def _check(model: Gguf, options: ModelOptions) -> None:
    """Raises WrongUsage for options that mean nothing to llama.cpp."""
    if options.quant or options.dtype != "auto":
        given = f"--quant {options.quant}" if options.quant else f"--dtype {options.dtype}"
        raise WrongUsage(f"{given}: {model.path} is computed with as it is.", hint=f"specexec convert {model.path} --to nf4")
    if options.device not in ("auto", "cpu") and not has_gpu():
        raise WrongUsage(f"llama.cpp was built without a GPU here; --device is {options.device}.", hint="--device auto")
