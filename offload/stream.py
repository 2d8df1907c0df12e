"""Layers on their way from disk: a fixed set stays in memory, the others pass through a ring of buffers ahead of their use.

An LRU cache never hits on a cyclic scan; a pinned set saves its own size every pass.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
import xxhash

from offload.buffer import Buffer, Span
from offload.direct import BLOCK, DirectFile
from offload.errors import DamagedFiles
from offload.reader import Reader

Tensors = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class Piece:
    """A layer's file. size: bytes; checksum: its xxh3_64."""

    path: Path
    size: int
    checksum: int
    spans: Mapping[str, Span]


def check(piece: Piece, view: memoryview) -> None:
    """Raises DamagedFiles where the file's bytes in `view` are not those that were written."""
    found = xxhash.xxh3_64()
    for start in range(0, piece.size, BLOCK):
        found.update(view[start : start + BLOCK])
    if found.intdigest() != piece.checksum:
        raise DamagedFiles(f"{piece.path} is damaged: its checksum is wrong.", hint=f"specexec verify {piece.path.parent}")


def spread(count: int, of: int) -> frozenset[int]:
    """`count` of the numbers below `of`, evenly interleaved."""
    return frozenset((2 * i + 1) * of // (2 * count) for i in range(count)) if count else frozenset()


class Streamer:
    """Implements the engine's WeightSource over a store's files. Its passes take the layers in order, again and again.

    pinned: layers kept in memory, read at once. slots: buffers of the ring. streamed_bytes: read for passes so far.
    elsewhere: layers that it is never asked for.
    """

    def __init__(
        self, pieces: Sequence[Piece], resident: Tensors, pinned: frozenset[int], slots: int = 2,
        elsewhere: frozenset[int] = frozenset(),
    ) -> None:
        self.pieces, self._resident, self.pinned = pieces, resident, pinned
        self._files = [DirectFile(piece.path) for piece in pieces]
        self._checked: set[int] = set()
        self._kept = {index: self._pin(index) for index in sorted(pinned)}
        cycle = [index for index in range(len(pieces)) if index not in pinned | elsewhere]
        sizes = [pieces[index].size for index in cycle]
        self._slots = [Buffer(max(sizes)) for _ in range(min(slots, len(cycle)))]
        self._views: dict[tuple[int, int], Tensors] = {}  # by buffer and by layout of the file
        self._reader = Reader(cycle, len(self._slots), self._fetch)

    def resident(self) -> Tensors:
        return self._resident

    @contextmanager
    def layer(self, index: int) -> Iterator[Tensors]:
        with self.held(index) as buffer:
            yield self._tensors(index, buffer)

    @contextmanager
    def held(self, index: int) -> Iterator[Buffer]:
        """The buffer that begins with layer `index`'s file, kept from being written inside the context."""
        if index in self._kept:
            yield self._kept[index]
            return
        slot = self._reader.take(index)
        try:
            yield self._slots[slot]
        finally:
            self._reader.release()

    @property
    def buffers(self) -> Sequence[Buffer]:
        """All that layers are handed out of."""
        return [*self._kept.values(), *self._slots]

    @property
    def nbytes(self) -> int:
        return sum(buffer.size for buffer in self.buffers) + sum(tensor.nbytes for tensor in self._resident.values())

    @property
    def streamed_bytes(self) -> int:
        return self._reader.bytes

    @property
    def why_plain(self) -> str | None:
        """Why reads go through the page cache; None where they do not."""
        return next((file.why_plain for file in self._files if file.why_plain), None)

    def close(self) -> None:
        self._reader.close()
        for file in self._files:
            file.close()

    def _pin(self, index: int) -> Buffer:
        buffer = Buffer(self.pieces[index].size)
        self._read(index, buffer)
        return buffer

    def _fetch(self, index: int, slot: int) -> int:
        """Reads a layer into a slot; the bytes read, 0 where it was stopped."""
        return self._read(index, self._slots[slot])

    def _read(self, index: int, into: Buffer) -> int:
        piece = self.pieces[index]
        view = into.view[: piece.size]
        if not self._files[index].read(view, lambda: self._stopping()):
            return 0
        if index not in self._checked:
            check(piece, view)
            self._checked.add(index)
        return piece.size

    def _stopping(self) -> bool:
        return hasattr(self, "_reader") and self._reader.stopping

    def _tensors(self, index: int, buffer: Buffer) -> Tensors:
        """The same mapping for the same places in memory."""
        spans = self.pieces[index].spans
        key = (id(buffer), hash(tuple(spans.items())))
        if key not in self._views:
            self._views[key] = buffer.tensors(spans)
        return self._views[key]
