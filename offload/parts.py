"""What the tensors of a store's file are made of, a few rows at a time: no more than that of a model is ever in memory."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Protocol

import torch

from offload.buffer import Span
from offload.errors import DamagedFiles, OffloadError, Refused
from offload.frame import Slot
from specexec.formats import KINDS, Packed, quantise, relay, shapes
from specexec.kinds import TILE

CHUNK = 2**24  # bytes of a source that are worked on at a time


class Source(Protocol):
    """A tensor, a few rows at a time. name: as published, for errors."""

    @property
    def name(self) -> str: ...

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> torch.dtype: ...

    def rows(self, start: int, stop: int) -> torch.Tensor:
        """[start:stop] along its first dimension. Raises OffloadError."""

    def steps(self, multiple: int) -> Iterator[tuple[int, int]]: ...


@dataclass(frozen=True)
class Stored:
    """Implements Source: a tensor as it lies in a file."""

    path: Path
    name: str
    span: Span

    def rows(self, start: int, stop: int) -> torch.Tensor:
        """[start:stop] along its first dimension. Raises DamagedFiles or OffloadError, naming file and byte."""
        row = (self.span.end - self.span.start) // self.span.shape[0]
        raw = read(self.path, self.span.start + start * row, (stop - start) * row)
        return torch.frombuffer(raw, dtype=self.span.dtype).view(-1, *self.span.shape[1:])

    @property
    def shape(self) -> tuple[int, ...]:
        return self.span.shape

    @property
    def dtype(self) -> torch.dtype:
        return self.span.dtype

    def steps(self, multiple: int) -> Iterator[tuple[int, int]]:
        return steps(self.shape, self.dtype.itemsize, multiple)


def steps(shape: tuple[int, ...], size: int, multiple: int) -> Iterator[tuple[int, int]]:
    """Ranges of rows, of about CHUNK bytes and a multiple of so many rows each, but for the last; size: bytes of an element."""
    step = max(CHUNK * shape[0] // (prod(shape) * size) // multiple, 1) * multiple
    return ((start, min(start + step, shape[0])) for start in range(0, shape[0], step))


def read(path: Path, start: int, count: int) -> bytearray:
    """`count` bytes of a file. A read, not a map: a disk's error is then an error and not the end of the process."""
    raw, done = bytearray(count), 0
    try:
        with path.open("rb", buffering=0) as file:
            file.seek(start)
            while done < count and (got := file.readinto(memoryview(raw)[done:])):
                done += got
    except OSError as error:
        what = f"reading {path} failed at byte {start + done:,}: {error.strerror}."
        raise OffloadError(what, hint="check the disk, then the same command again") from error
    if done < count:
        raise DamagedFiles(f"{path} ends at byte {start + done:,}.", hint="fetch the model again")
    return raw


class Part(Protocol):
    """slots: the tensors it makes, one after the other. steps: ranges of its source's rows."""

    @property
    def slots(self) -> tuple[Slot, ...]: ...

    def steps(self) -> Iterator[tuple[int, int]]: ...

    def make(self, start: int, stop: int) -> tuple[torch.Tensor, ...]:
        """What these rows become, for each slot. Raises Refused, DamagedFiles or OffloadError."""


@dataclass(frozen=True)
class Cast:
    """A tensor in another dtype, or in its own."""

    name: str
    source: Source
    dtype: torch.dtype

    @property
    def slots(self) -> tuple[Slot, ...]:
        return (Slot(self.name, self.dtype, self.source.shape),)

    def steps(self) -> Iterator[tuple[int, int]]:
        return self.source.steps(1)

    def make(self, start: int, stop: int) -> tuple[torch.Tensor, ...]:
        made = self.source.rows(start, stop).to(self.dtype)
        if not all(math.isfinite(x) for x in made.aminmax()):  # a twentieth of isfinite's time in bf16; keeps NaN
            raise Refused(f"{self.source.name} holds NaN or an infinity in {self.dtype}.", hint="another copy of the model")
        return (made,)


@dataclass(frozen=True)
class Quantise:
    """The matrix `name`.weight[N, K] as codes and scales."""

    name: str
    source: Source
    kind: str
    layout: str

    @property
    def shape(self) -> tuple[int, ...]:
        return self.source.shape

    @property
    def slots(self) -> tuple[Slot, ...]:
        rows, columns = self.shape
        return matrix_slots(self.name, self.kind, self.layout, rows, columns)

    def steps(self) -> Iterator[tuple[int, int]]:
        return self.source.steps(TILE)

    def make(self, start: int, stop: int) -> tuple[torch.Tensor, ...]:
        try:
            made = quantise(self.source.rows(start, stop), self.kind, self.layout)
        except ValueError as error:
            raise Refused(f"{self.source.name} cannot be quantised: {error}", hint="--to bf16, or another model") from error
        return made.codes, made.scales


@dataclass(frozen=True)
class Relay:
    """The same codes and scales in another layout; `rows` and `columns` of the weight they stand for."""

    name: str
    codes: Stored
    scales: Stored
    kind: str
    layouts: tuple[str, str]  # from, to
    rows: int
    columns: int

    @property
    def shape(self) -> tuple[int, ...]:
        return self.rows, self.columns

    @property
    def layout(self) -> str:
        return self.layouts[1]

    @property
    def slots(self) -> tuple[Slot, ...]:
        return matrix_slots(self.name, self.kind, self.layout, self.rows, self.columns)

    @property
    def lines(self) -> int:
        """Rows of the weight in one row of the codes."""
        return TILE if self.layouts[0] == "tile16" else 1

    def steps(self) -> Iterator[tuple[int, int]]:
        """Of the weight's rows."""
        for start, stop in self.codes.steps(TILE // self.lines):
            yield start * self.lines, min(stop * self.lines, self.rows)

    def make(self, start: int, stop: int) -> tuple[torch.Tensor, ...]:
        at = start // self.lines, -(-stop // self.lines)
        lie = self.codes.rows(*at), self.scales.rows(*at)
        made = relay(Packed(self.kind, self.layouts[0], stop - start, self.columns, *lie), self.layout)
        return made.codes, made.scales


def matrix_slots(name: str, kind: str, layout: str, rows: int, columns: int) -> tuple[Slot, Slot]:
    codes, scales = shapes(kind, layout, rows, columns)
    return Slot(f"{name}.weight", KINDS[kind], codes), Slot(f"{name}.scales", torch.float16, scales)
