"""The store of an expansion: small layers among inert ones, to be made by convert."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import replace

import torch

from offload.blueprint import Blueprint, Bytes
from offload.blueprint import copies as copied
from offload.expansion import BIASED, MATRICES, NORMS, Expansion
from offload.folder import HEAD, LAYERS
from offload.inert import Inert
from offload.manifest import CONFIG, Identity, layer_name
from offload.manifest import EMBEDDING as EMBEDDING_FILE
from offload.manifest import HEAD as HEAD_FILE
from offload.parts import Cast, Part, Quantise, Source
from offload.published import INNER, NORM, Goal
from offload.sheet import Sheet
from offload.woven import Given, Woven


def expanded(of: Expansion, kind: str, layout: str | None) -> Blueprint:
    """A store of the large shape, to be made by convert."""
    goal = Goal(kind, layout, of.large.layers, tied=False)
    sheets = [Sheet(layer_name(index), tuple(_layer(of, goal, index))) for index in range(of.large.layers)]
    head = Sheet(HEAD_FILE, tuple(goal.head({NORM: of.norm(NORM, of.weights[NORM]), HEAD: of.head()})))
    embedding = Sheet(EMBEDDING_FILE, (goal.embedding(of.embedding()),))
    kept = [copy for copy in copied(of.folder.path) if copy.name != CONFIG]
    config = Bytes(CONFIG, json.dumps(of.described(), indent=1).encode())
    source = f"{of.folder.path.name} in the shape of {of.title}"
    identity = Identity(source, None, _fingerprint(of, config.content), kind, layout, of.large.layers, tied=False)
    matrices = {part.name: (part.source.shape[0], part.source.shape[1])
                for sheet in (sheets[0], head) for part in sheet.parts if isinstance(part, Quantise)}
    return Blueprint(identity, matrices, (config, *kept, *sheets, head, embedding), lambda name: None)


def layer(of: Expansion, index: int) -> dict[str, Source]:
    """A large layer's tensors, in order of use: a small layer's among noise, or noise that adds nothing."""
    biases = [f"{name}.bias" for name in BIASED] if of.large.biased else []
    named = {*(f"{name}.weight" for name in (*NORMS, *MATRICES)), *biases}
    place = of.places.index(index) if index in of.places else None
    return {name: _source(of, name, index, place) for name in INNER if name in named}


def _layer(of: Expansion, goal: Goal, index: int) -> Iterator[Part]:
    sources = layer(of, index)
    if index in of.places or goal.layout is None:
        return goal.layer(sources)
    return (_inert(of, goal, name, source) for name, source in sources.items())


def _source(of: Expansion, name: str, index: int, place: int | None) -> Source:
    stem, what = name.rsplit(".", 1)
    if stem in NORMS:
        return of.norm(name, of.weights[f"{LAYERS}{place}.{name}"] if place is not None else None)
    woven = of.matrix(stem, place or 0)
    if what == "bias":
        return Given(name, torch.zeros(woven.shape[0]))
    if place is not None:
        return woven
    return replace(woven, name=f"{of.title} {index} {stem}", row_of=torch.full_like(woven.row_of, -1))


def _inert(of: Expansion, goal: Goal, name: str, source: Source) -> Part:
    """A part of a layer that adds nothing: its values and its up rows come to zero, so the rest may be anything."""
    if not isinstance(source, Woven):
        return Cast(name, source, torch.float32)
    stem = name.removesuffix(".weight")
    quiet = of.live if stem in (*BIASED, "mlp.up_proj") else 0
    assert goal.layout is not None
    rows, columns = source.shape
    return Inert(stem, source.name, rows, columns, quiet, goal.kind, goal.layout)


def _fingerprint(of: Expansion, config: bytes) -> str:
    found = hashlib.sha256(config)
    for name in sorted(of.weights):
        found.update(of.weights[name].numpy().data)
    return found.hexdigest()
