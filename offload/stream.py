"""Layers on their way from disk: a fixed set stays in memory, the others pass through a ring of buffers ahead of their use.

An LRU cache never hits on a cyclic scan; a pinned set saves its own size every pass.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch

from offload.buffer import Buffer
from offload.direct import DirectFile
from offload.embedding import Embedding
from offload.piece import Piece
from offload.reader import Reader

Tensors = Mapping[str, torch.Tensor]


def spread(count: int, of: int) -> frozenset[int]:
    """`count` of the numbers below `of`, evenly interleaved."""
    return frozenset((2 * i + 1) * of // (2 * count) for i in range(count)) if count else frozenset()


class Streamer:
    """Implements the engine's WeightSource over a store's files. Its passes take the layers in order, again and again.

    pinned: layers kept in memory, read at once. slots: buffers of the ring. streamed_bytes: handed to passes so far.
    why_plain: why what streams goes through the page cache; None where it does not.
    """

    def __init__(
        self, pieces: Sequence[Piece], resident: Tensors, embedding: Embedding, pinned: frozenset[int], slots: int = 2
    ) -> None:
        self.pieces, self.embedding, self.pinned, self.streamed_bytes = pieces, embedding, pinned, 0
        self._resident = resident
        self._checked: set[int] = set()
        self._kept = {index: pieces[index].load() for index in sorted(pinned)}
        cycle = [index for index in range(len(pieces)) if index not in pinned]
        self._files = {index: DirectFile(pieces[index].path) for index in cycle}
        self._slots = [Buffer(max(pieces[index].size for index in cycle)) for _ in range(min(slots, len(cycle)))]
        self._views: dict[tuple[int, int], Tensors] = {}  # by slot and by layout of the file
        self._reader = Reader(cycle, len(self._slots), self._fetch)

    def resident(self) -> Tensors:
        return self._resident

    def embed(self, tokens: Sequence[int]) -> torch.Tensor:
        return self.embedding.rows(tokens)

    @contextmanager
    def layer(self, index: int) -> Iterator[Tensors]:
        if index in self._kept:
            yield self._kept[index]
            return
        slot = self._reader.take(index)
        self.streamed_bytes += self.pieces[index].size
        try:
            yield self._tensors(index, slot)
        finally:
            self._reader.release()

    @property
    def nbytes(self) -> int:
        buffers = sum(self.pieces[index].size for index in self.pinned) + sum(slot.size for slot in self._slots)
        return buffers + sum(tensor.nbytes for tensor in self._resident.values())

    @property
    def why_plain(self) -> str | None:
        found = (file.why_plain for file in self._files.values() if file.why_plain)
        return next(found, self.embedding.why_plain if self._files else None)

    def close(self) -> None:
        """Ends the thread and closes the files; once."""
        self._reader.close()
        self.embedding.close()
        for file in self._files.values():
            file.close()

    def _fetch(self, index: int, slot: int) -> bool:
        """Reads a layer into a slot; False where it was stopped."""
        piece = self.pieces[index]
        view = self._slots[slot].view[: piece.size]
        if not self._files[index].read(view, lambda: self._reader.stopping):
            return False
        if index not in self._checked:
            piece.check(view)
            self._checked.add(index)
        return True

    def _tensors(self, index: int, slot: int) -> Tensors:
        """The same mapping for the same places in memory."""
        spans = self.pieces[index].spans
        key = (slot, hash(tuple(spans.items())))
        if key not in self._views:
            self._views[key] = self._slots[slot].tensors(spans)
        return self._views[key]
