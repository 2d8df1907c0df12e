"""What the name of a model means: the bundled pair, a folder as published, a converted store, or a GGUF file."""

import importlib.resources
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cli.home import folders, models
from cli.name import BUNDLED, Name, is_path, parse
from cli.shelf import called, nearest
from offload.errors import NotHere, Refused
from offload.folder import Folder, stored
from offload.footprint import footprint
from offload.gguf import Gguf, is_gguf
from offload.manifest import is_store
from offload.store import Store
from specexec.errors import WrongUsage
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


def find(text: str, role: str) -> Path:
    """The folder or GGUF file that `text` means (name.py); role: target or draft, which of the bundled pair is meant.

    Raises NotHere, Refused for other files, or WrongUsage where it is no name, or means several models.
    """
    if text == BUNDLED:
        return Path(str(importlib.resources.files("specexec.bundled") / role))
    if is_path(text):
        return _folder(Path(text).expanduser())
    if is_gguf(Path(text)):
        return next((path for path in (Path(text), models() / text) if path.exists()), Path(text))
    name = parse(text)
    exact = models() / name.model
    if name == Name(text) and exact in folders():  # also one that is damaged, to be verified or removed
        return exact
    found = called(name)
    if not found:
        raise not_here(name)
    if len(found) > 1:
        raise WrongUsage(f'"{text}" means several models here.', hint="one of " + ", ".join(of.name for of in found))
    return found[0].path


def _folder(path: Path) -> Path:
    if path.is_file() and not is_gguf(path):
        raise Refused(f"{path} is a file; models are folders, or GGUF files.",
                      hint="the folder that holds config.json and model.safetensors")
    return path


def not_here(name: Name) -> NotHere:
    """What to say of a model that is not here: the nearest one that is, a folder of that name, or where to get it."""
    near = nearest(name)
    ways = [near] if near else []
    if Path(name.model).exists():
        ways.append(f"./{name.model}, the folder")
    repo = replace(name, format=None) if "/" in name.model else "ORG/NAME"
    ways.append(f"specexec pull {repo}" + (f" --to {name.format}" if name.format else ""))
    return NotHere(f'no model "{name}" here.', hint=", or ".join(ways))


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
