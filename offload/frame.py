"""How a store's file is laid out: safetensors that a disk can read past the page cache and the kernels can use as they lie.

The data starts on a page and the file ends on one; every tensor starts on a cache line. safetensors knows no holes, so small
uint8 tensors fill them.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import prod

import torch

from offload.header import DTYPES, FILLERS, LENGTH, METADATA, NO_SEAL, sealed

PAGE, LINE = 4096, 64
NAMES = {dtype: name for name, dtype in DTYPES.items()}
FILL, PADDING = FILLERS


@dataclass(frozen=True)
class Slot:
    """A tensor that a file is to hold."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True)
class Frame:
    """All of a file but its tensors. head: its first bytes; gaps: zeros before each slot; tail: zeros at the end."""

    head: bytes
    slots: tuple[Slot, ...]
    gaps: tuple[int, ...]
    tail: int

    @property
    def nbytes(self) -> int:
        return len(self.head) + sum(self.gaps) + sum(slot.nbytes for slot in self.slots) + self.tail

    def around(self, pieces: Iterable[memoryview]) -> Iterator[memoryview | bytes]:
        """The whole file, given its tensors in order, each in pieces of its own."""
        yield self.head
        following = iter(pieces)
        for slot, gap in zip(self.slots, self.gaps, strict=True):
            yield bytes(gap)
            left = slot.nbytes
            while left > 0:
                piece = next(following)
                left -= len(piece)
                yield piece
            assert left == 0, slot
        yield bytes(self.tail)


def frame(slots: Sequence[Slot]) -> Frame:
    """A file of these tensors, in this order."""
    gaps, entries, at = [], {}, 0
    for slot in slots:
        gaps.append(-at % LINE)
        if gaps[-1]:
            entries[f"{FILL}{len(gaps)}"] = _entry(torch.uint8, (gaps[-1],), at)
            at += gaps[-1]
        entries[slot.name] = _entry(slot.dtype, slot.shape, at)
        at += slot.nbytes
    if tail := -at % PAGE:
        entries[PADDING] = _entry(torch.uint8, (tail,), at)
    return Frame(_head(entries), tuple(slots), tuple(gaps), tail)


def _entry(dtype: torch.dtype, shape: tuple[int, ...], at: int) -> dict[str, object]:
    return {"dtype": NAMES[dtype], "shape": shape, "data_offsets": (at, at + prod(shape) * dtype.itemsize)}


def _head(entries: dict[str, dict[str, object]]) -> bytes:
    """The header's length, the header, and spaces up to a page."""
    text = json.dumps({METADATA: {"xxh3_64": NO_SEAL.decode()}, **entries}, separators=(",", ":")).encode()
    text += b" " * (-(LENGTH + len(text)) % PAGE)
    return len(text).to_bytes(LENGTH, "little") + sealed(text)
