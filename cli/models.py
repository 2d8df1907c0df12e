"""A model as it was opened: a folder as published, a converted store, or a GGUF file; and what a person wants of it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cli.name import BUNDLED, is_gguf
from offload.folder import Folder, stored
from offload.footprint import footprint
from offload.gguf import Gguf
from offload.manifest import is_store
from offload.store import Store
from specexec.sampling import Sampling

TREE = 256  # rows of a pass over a store at the least: more of a prompt at once take a CPU longer than the weights do to come
DRAFT_BITS = 8  # of a draft's activations: coarser ones cost guesses at the most, and hardly any
Model = Folder | Store | Gguf


@dataclass(frozen=True)
class ModelOptions:
    """model: `bundled`, the name of a store, or a folder. drafts: auto, none, lookup, bundled, self, self:3bit, random,
    or models.

    context: positions, None for the model's own. quant: nf4 or int8, None for the weights as they are; activations: bits.
    ram, vram: bytes that may be used in all, of memory and of a GPU's; None for what is free. nodes: of the largest tree, where
    a number was given. draft_kv: what a draft keeps of its context: auto, full, window, retrieval, int8 or int4. kv:
    format of the model's keys and values: auto, bf16, int8 or int4. kv_place: where they are: auto, device, host or disk.
    verbose: llama.cpp may say what it does. cache: a file for the target's keys and values. quiet: nothing is said.
    """

    model: str = BUNDLED
    drafts: tuple[str, ...] = ("auto",)
    device: str = "auto"
    dtype: str = "auto"
    context: int | None = None
    raw: bool = False
    quant: str | None = None
    activations: int = 8
    ram: int | None = None
    vram: int | None = None
    nodes: int | None = None
    draft_kv: str = "auto"
    kv: str = "auto"
    kv_place: str = "auto"
    verbose: bool = False
    cache: Path | None = None
    quiet: bool = False

    @property
    def tree(self) -> int:
        """Rows of the largest tree that a pass over a store checks."""
        return max(TREE, (self.nodes or 0) + 1)


def opened(path: Path) -> Model:
    return Gguf(path) if is_gguf(path) else Store(path) if is_store(path) else Folder(path)


def parameters(model: Model) -> int:
    if isinstance(model, Gguf):
        return model.parameters
    if isinstance(model, Folder):
        return stored(model)[0]
    twice = model.config["vocab_size"] * model.config["hidden_size"] if model.tied else 0
    return footprint(model.config, model.quant).parameters - twice


def eos(model: Model) -> frozenset[int]:
    """The ids that end an answer: generation_config's, else config's."""
    found = model.generation.get("eos_token_id", model.config.get("eos_token_id"))
    return frozenset(found if isinstance(found, list) else [] if found is None else [found])


def sampling(generation: Mapping[str, Any]) -> Sampling:
    """The model's own defaults, else temperature 0.7 and top-p 0.95."""
    own = {name: generation[name] for name in ("temperature", "top_k", "top_p", "min_p") if generation.get(name) is not None}
    return Sampling(
        temperature=float(own.get("temperature", 0.7)),
        top_k=int(own.get("top_k", 0)),
        top_p=float(own.get("top_p", 1.0 if own else 0.95)),
        min_p=float(own.get("min_p", 0.0)),
        repeat_penalty=float(generation.get("repetition_penalty") or 1.0),
    )
