"""A conversion of a folder as it was published: which of its tensors go where, and in what precision."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch

from offload.blueprint import Blueprint, Copy, copies
from offload.errors import DamagedFiles, Refused
from offload.folder import EMBEDDING, HEAD, LAYERS, Folder
from offload.header import Spans, published_header
from offload.manifest import EMBEDDING as EMBEDDING_FILE
from offload.manifest import HEAD as HEAD_FILE
from offload.manifest import Identity, layer_name
from offload.parts import Cast, Part, Quantise, Source, Stored
from offload.sheet import Sheet

NORM = "model.norm.weight"
ORDER = ("input_layernorm", "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.q_norm", "self_attn.k_norm",
         "self_attn.o_proj", "post_attention_layernorm", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")  # of use in a layer
INNER = [name for stem in ORDER for name in (f"{stem}.weight", f"{stem}.bias") if stem.endswith("_proj") or name[-1] == "t"]
OPTIONAL = {name for name in INNER if name.endswith(".bias")} | {"self_attn.q_norm.weight", "self_attn.k_norm.weight"}
FLOATS = (torch.float32, torch.bfloat16, torch.float16)
AGAIN = "fetch the model again"

Sources = Mapping[str, Source]
Matrices = Mapping[str, tuple[int, int]]


class Kept(Source, Protocol):
    """A tensor of a file."""

    @property
    def path(self) -> Path: ...


@dataclass(frozen=True)
class Goal:
    """kind: nf4, int8 or bf16; layout: None for bf16. layers, tied: as the model's configuration says."""

    kind: str
    layout: str | None
    layers: int
    tied: bool

    def vector(self, name: str, source: Source) -> Part:
        """Norms and biases are few and bear errors worst: fp32 beside quantised matrices, as the kernels read them."""
        return Cast(name, source, torch.bfloat16 if self.layout is None else torch.float32)

    def matrix(self, name: str, source: Source, kind: str) -> Part:
        if self.layout is None:
            return Cast(f"{name}.weight", source, torch.bfloat16)
        return Quantise(name, source, kind, self.layout)

    def embedding(self, source: Source) -> Part:
        """As it is stored: a pass reads the rows of its tokens alone, so fewer bits would save no time."""
        return Cast(EMBEDDING, source, torch.bfloat16 if self.layout is None else source.dtype)

    def layer(self, tensors: Sources) -> Iterator[Part]:
        for name in (name for name in INNER if name in tensors):
            if name.endswith("_proj.weight"):
                yield self.matrix(name.removesuffix(".weight"), tensors[name], self.kind)
            else:
                yield self.vector(name, tensors[name])

    def head(self, tensors: Sources) -> Iterator[Part]:
        """int8 even beside nf4: its error moves every logit, and its bytes are few beside the layers'."""
        yield self.vector(NORM, tensors[NORM])
        if not (self.tied and self.layout is None):  # in bf16 a tied head is the embedding
            yield self.matrix(HEAD.removesuffix(".weight"), tensors[EMBEDDING if self.tied else HEAD], "int8")


def published(folder: Folder, goal: Goal) -> Blueprint:
    """From headers alone. Raises DamagedFiles or Refused for what is missing, unknown or of no use."""
    headers = {path: published_header(path) for path in folder.shards()}
    kept = list(copies(folder.path))
    identity = Identity(*_origin(folder.path), _fingerprint(folder, kept), goal.kind, goal.layout, goal.layers, goal.tied)

    def check(name: str) -> None:
        if _fingerprint(folder, kept) != identity.fingerprint:
            raise DamagedFiles(f"{folder.path} changed while it was read.", hint="the same command again")

    matrices, sheets = drawn(str(folder.path), headers, goal)
    return Blueprint(identity, matrices, (*kept, *sheets), check)


def drawn(model: str, headers: Mapping[Path, Spans], goal: Goal) -> tuple[Matrices, tuple[Sheet, ...]]:
    """As `laid_out`, of what published files hold."""
    return laid_out(model, _tensors(headers), goal)


def laid_out(model: str, tensors: Mapping[str, Kept], goal: Goal) -> tuple[Matrices, tuple[Sheet, ...]]:
    """The matrices of a manifest, and all files but copies, of tensors by their published names; model: for errors."""
    outside, layers = _sorted(model, tensors, goal)
    sheets = [Sheet(layer_name(index), tuple(goal.layer(tensors))) for index, tensors in enumerate(layers)]
    head = Sheet(HEAD_FILE, tuple(goal.head(outside)))
    embedding = Sheet(EMBEDDING_FILE, (goal.embedding(outside[EMBEDDING]),))
    quantised = [part for sheet in (sheets[0], head) for part in sheet.parts if isinstance(part, Quantise)]
    matrices = {part.name: (part.source.shape[0], part.source.shape[1]) for part in quantised}
    return matrices, (*sheets, head, embedding)


def _sorted(model: str, found: Mapping[str, Kept], goal: Goal) -> tuple[Sources, list[Sources]]:
    """(tensors outside the layers, those of each layer by their names in it), all as they should be."""
    outside = dict[str, Source]()
    layers: list[dict[str, Source]] = [{} for _ in range(min(goal.layers, len(found)))]
    for name, tensor in found.items():
        index, inner = _within(name)
        if name in (EMBEDDING, NORM, HEAD):
            outside[name] = _usable(tensor, 1 if name == NORM else 2)
        elif index is None or (index < len(layers) and inner not in INNER):
            raise Refused(f"{tensor.path} holds {name}, of which specexec knows no use.", hint="a model as it was published")
        elif index < len(layers):  # what comes after the configured layers is for training
            layers[index][inner] = _usable(tensor, 2 if inner.endswith("_proj.weight") else 1)
    _complete(model, outside, {EMBEDDING, NORM} | (set() if goal.tied else {HEAD}))
    _alike(model, layers)
    if len(layers) != goal.layers or not layers:
        raise DamagedFiles(f"{model} lacks {LAYERS}{len(layers)}.", hint=AGAIN)
    return outside, list(layers)


def _within(name: str) -> tuple[int | None, str]:
    """(layer, name in it), or (None, name) outside the layers."""
    index, _, inner = name.removeprefix(LAYERS).partition(".")
    return (int(index), inner) if name.startswith(LAYERS) and index.isdecimal() else (None, name)


def _tensors(headers: Mapping[Path, Spans]) -> Mapping[str, Stored]:
    found: dict[str, Stored] = {}
    for path, spans in headers.items():
        for name, span in spans.items():
            if name in found:
                raise DamagedFiles(f"{name} is in {found[name].path.name} and in {path}.", hint=AGAIN)
            if not name.endswith("rotary_emb.inv_freq"):  # old checkpoints hold what the configuration says
                found[name] = Stored(path, name, span)
    return found


def _usable(tensor: Kept, dimensions: int) -> Kept:
    shape, dtype = tensor.shape, tensor.dtype
    if dtype not in FLOATS:
        raise Refused(f"{tensor.path}: {tensor.name} is {dtype}, which is quantised already or no weight.",
                      hint="the model as published in fp32, bf16 or fp16")
    if len(shape) != dimensions or not all(shape):
        raise DamagedFiles(f"{tensor.path}: {tensor.name} has the shape {list(shape)}.", hint=AGAIN)
    return tensor


def _complete(model: str, tensors: Sources, wanted: set[str], before: str = "") -> None:
    if missing := sorted(wanted - tensors.keys()):
        raise DamagedFiles(f"{model} lacks {before}{missing[0]}.", hint=AGAIN)


def _alike(model: str, layers: list[dict[str, Source]]) -> None:
    """Every layer has what the first one has, in the same shapes."""
    wanted = (set(INNER) - OPTIONAL).union(*layers)
    for index, tensors in enumerate(layers):
        _complete(model, tensors, wanted, f"{LAYERS}{index}.")
        for name, tensor in tensors.items():
            if tensor.shape != layers[0][name].shape:
                raise DamagedFiles(f"{model}: {LAYERS}{index}.{name} has the shape {list(tensor.shape)},"
                                   f" unlike layer 0's {list(layers[0][name].shape)}.", hint=AGAIN)


def _origin(path: Path) -> tuple[str, str | None]:
    """(source, revision): the repo and its commit where the folder is in the hub's cache, else the path."""
    here = path.resolve()
    if here.parent.name == "snapshots" and here.parents[1].name.startswith("models--"):
        return here.parents[1].name.removeprefix("models--").replace("--", "/"), here.name
    return str(here), None


def _fingerprint(folder: Folder, kept: list[Copy]) -> str:
    """Of names, sizes and times: what is changed and not seen here would have to hide."""
    files = [*folder.shards(), *(copy.path for copy in kept)]
    facts = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()
