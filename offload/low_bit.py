"""A low-bit copy of a store's layers, with which the model drafts for itself.   SubSpec, Wang et al. 2025

It is made of what the store holds, not of what that was made of: so it is nearest to the model as it runs, and has the same
bytes whenever it is made.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import TypeVar

import torch

from offload.blueprint import Blueprint, File
from offload.inert import Inert
from offload.manifest import copy_name, layer_name
from offload.parts import Part, Quantise, Relay
from offload.sheet import Sheet
from specexec.formats import Packed, dequantise

F = TypeVar("F", bound=File)
Matrix = Quantise | Relay | Inert


@dataclass(frozen=True)
class Again:
    """Implements Source: the weights that a matrix of a store stands for."""

    part: Matrix

    @property
    def name(self) -> str:
        return self.part.name

    @property
    def shape(self) -> tuple[int, ...]:
        return self.part.shape

    @property
    def dtype(self) -> torch.dtype:
        return torch.float32

    def rows(self, start: int, stop: int) -> torch.Tensor:
        """fp32. start begins a tile."""
        made = self.part.make(start, stop)
        return dequantise(Packed(self.part.kind, self.part.layout, stop - start, self.shape[1], *made))

    def steps(self, multiple: int) -> Iterator[tuple[int, int]]:
        """Of whole tiles, but for the last."""
        return self.part.steps()


def copied(layer: Sheet, name: str, kind: str) -> Sheet:
    """The copy of a layer's file: its vectors as they are, so that it is a whole layer."""
    return Sheet(name, tuple(_part(part, kind) for part in layer.parts))


def _part(part: Part, kind: str) -> Part:
    return Quantise(part.name, Again(part), kind, part.layout) if isinstance(part, Matrix) else part


def with_copies(files: Iterable[F], layers: int, kind: str) -> Iterator[F | Sheet]:
    """Each layer's behind it."""
    names = {layer_name(index): copy_name(index) for index in range(layers)}
    for file in files:
        yield file
        if isinstance(file, Sheet) and file.name in names:
            yield copied(file, names[file.name], kind)


def with_copy(of: Blueprint, kind: str) -> Blueprint:
    """The same store with a copy; as it is where it has one."""
    if of.identity.copy:
        return of
    layers = {copy_name(index): layer_name(index) for index in range(of.identity.layers)}
    files = tuple(with_copies(of.files, of.identity.layers, kind))
    return replace(of, identity=replace(of.identity, copy=kind), files=files,
                   check=lambda name: of.check(layers.get(name, name)))
