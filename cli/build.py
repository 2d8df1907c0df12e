"""Puts the parts together: folder, weights, engine, drafter, tokenizer."""

import importlib.resources
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from cli.codec import Codec
from cli.interrupt import Interrupt
from cli.session import Session
from offload.errors import NotHere, Refused
from offload.folder import Folder, Form, ResidentWeights, stored
from offload.form import Plain, Quantised
from specexec.drafters.grow import Grow, Nothing
from specexec.drafters.growing import Expander
from specexec.drafters.lookup import Chains, Recycled
from specexec.drafters.model import ModelExpander
from specexec.drafters.wild import Wild
from specexec.engines.device import SMALL, choose_device, choose_dtype, choose_threads
from specexec.engines.families import admit
from specexec.engines.kernel_engine import KernelEngine
from specexec.engines.torch_engine import TorchEngine
from specexec.engines.tree_engine import TreeEngine
from specexec.errors import WrongUsage
from specexec.kernels.library import REFERENCE, instruction_set
from specexec.kv.dense import DenseCache
from specexec.roles import Drafter, Engine
from specexec.sampling import Sampling
from specexec.vocabulary import match

BUNDLED = "bundled"


@dataclass(frozen=True)
class ModelOptions:
    """model: `bundled` or a folder. drafts: auto, none, lookup, bundled, random, or folders.

    context: positions, None for the model's own. quant: nf4 or int8, None for the weights as they are; activations: bits.
    """

    model: str = BUNDLED
    drafts: tuple[str, ...] = ("auto",)
    device: str = "auto"
    dtype: str = "auto"
    context: int | None = None
    raw: bool = False
    quant: str | None = None
    activations: int = 8


def find(name: str, role: str) -> Path:
    """The folder of the model called `name`; role: target or draft, which of the bundled pair is meant."""
    if name == BUNDLED:
        return Path(str(importlib.resources.files("specexec.bundled") / role))
    path = Path(name).expanduser()
    if path.is_file():
        raise Refused(f"{name} is a file; models are folders.", hint="the folder that holds config.json and model.safetensors")
    if not path.exists() and not name.startswith((".", "/", "~")):
        raise NotHere(f'no model "{name}" here.', hint="-m bundled, or the path of a model folder")
    return path


def open_session(options: ModelOptions, interrupt: Interrupt) -> Session:
    """Loads the target and what drafts for it."""
    folder = Folder(find(options.model, "target"))
    engine, codec = _engine(folder, options, interrupt)
    drafter = _drafter(options, engine, codec, interrupt)
    choose_threads(stored(folder)[0])
    return Session(engine, drafter, codec, _eos(folder), _sampling(folder.generation), interrupt)


def _engine(folder: Folder, options: ModelOptions, interrupt: Interrupt) -> tuple[TreeEngine, Codec]:
    config = admit(folder.config)
    codec = Codec(folder.path, options.raw)
    vocabulary = min(config.vocab_size, max(codec.vocabulary.values()) + 1)
    context = _context(config.max_position_embeddings, options.context)
    device = choose_device(options.device)
    layers, tied = config.num_hidden_layers, config.tie_word_embeddings
    if options.quant and device.type == "cpu" and instruction_set() != REFERENCE:
        form: Form = Quantised(options.quant, "tile16", tied, device, torch.float32)
        weights = ResidentWeights(folder, layers, tied, form)
        return KernelEngine(config, weights, vocabulary, options.activations, interrupt.requested, context), codec
    dtype = choose_dtype(options.dtype, *stored(folder))
    form = Quantised(options.quant, "rowmajor", tied, device, dtype) if options.quant else Plain(device, dtype)
    weights = ResidentWeights(folder, layers, tied, form)
    engine = TorchEngine(config, weights, DenseCache(layers), vocabulary, device, dtype, interrupt.requested, context,
                         quant=options.quant)
    return engine, codec


def _context(trained: int, wanted: int | None) -> int:
    if wanted is not None and wanted > trained:
        raise WrongUsage(f"--ctx-size {wanted:,}: the model's context is {trained:,}.", hint=f"--ctx-size {trained}, or less")
    return wanted or trained


def _drafter(options: ModelOptions, engine: Engine, codec: Codec, interrupt: Interrupt) -> Drafter:
    names = list(dict.fromkeys(_resolve(options)))
    if "none" in names:
        if len(names) > 1:
            raise WrongUsage("--draft none contradicts the other --draft.", hint="one of the two")
        return Nothing()
    expanders = [found for name in names for found in _expanders(name, options, engine, codec, interrupt)]
    return Grow(expanders, engine.limits.context)


def _resolve(options: ModelOptions) -> list[str]:
    """auto is the bundled draft for the bundled target, and lookup always."""
    auto = [BUNDLED, "lookup"] if options.model == BUNDLED else ["lookup"]
    return [name for given in options.drafts for name in (auto if given == "auto" else [given])]


def _expanders(name: str, options: ModelOptions, target: Engine, codec: Codec, interrupt: Interrupt) -> Sequence[Expander]:
    if name == "lookup":
        return [Chains(), Recycled()]
    if name == "random":
        return [Wild(target.limits.vocabulary)]
    folder = Folder(find(name, "draft"))
    fitting = match(codec.vocabulary, Codec(folder.path).vocabulary)
    quant = options.quant if stored(folder)[0] >= SMALL else None  # below, it would cost tokens and save nothing
    draft, _ = _engine(folder, replace(options, model=name, quant=quant, context=None), interrupt)
    return [ModelExpander(draft, fitting)]


def _eos(folder: Folder) -> frozenset[int]:
    """The ids that end an answer: generation_config's, else config's."""
    found = folder.generation.get("eos_token_id", folder.config.get("eos_token_id"))
    return frozenset(found if isinstance(found, list) else [] if found is None else [found])


def _sampling(generation: Mapping[str, Any]) -> Sampling:
    """The model's own defaults, else temperature 0.7 and top-p 0.95."""
    own = {name: generation[name] for name in ("temperature", "top_k", "top_p", "min_p") if generation.get(name) is not None}
    return Sampling(
        temperature=float(own.get("temperature", 0.7)),
        top_k=int(own.get("top_k", 0)),
        top_p=float(own.get("top_p", 1.0 if own else 0.95)),
        min_p=float(own.get("min_p", 0.0)),
        repeat_penalty=float(generation.get("repetition_penalty") or 1.0),
    )


def versions() -> dict[str, str]:
    """Of what a figure depends on."""
    import transformers

    return {"torch": torch.__version__, "transformers": transformers.__version__, "device": str(choose_device()),
            "kernels": instruction_set()}
