"""Layers on their way from disk: a fixed set stays in memory, the others pass through a ring of buffers ahead of their use.

An LRU cache never hits on a cyclic scan; a pinned set saves its own size every pass.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch

from offload.buffer import Buffer
from offload.direct import DirectFile
from offload.embedding import Embedding
from offload.piece import Piece
from offload.reader import Reader
from offload.told import Told, nobody

Tensors = Mapping[str, torch.Tensor]


def _nothing(seconds: float) -> bool:
    return False


def spread(count: int, of: int) -> frozenset[int]:
    """`count` of the numbers below `of`, evenly interleaved."""
    return frozenset((2 * i + 1) * of // (2 * count) for i in range(count)) if count else frozenset()


@runtime_checkable
class Streaming(Protocol):
    """Layers of which some come from disk in every pass. folder: the store's. streamed_bytes: handed to passes so far.

    why_plain: why what streams goes through the page cache; None where it does not.
    """

    @property
    def pieces(self) -> Sequence[Piece]: ...

    @property
    def folder(self) -> Path: ...

    @property
    def streamed_bytes(self) -> int: ...

    @property
    def why_plain(self) -> str | None: ...

    def disk_bytes(self, index: int) -> int:
        """What layer `index` takes from disk in every pass; 0 where it stays in memory."""

    def pause(self) -> None:
        """Leaves the disk to others: nothing is read ahead until the next layer is taken."""

    def close(self) -> None:
        """Ends the threads and closes the files."""


class Streamer:
    """Implements Streaming and the engine's WeightSource over a store's files. Its passes take the layers in order.

    pinned: layers kept in memory, read at once. slots: buffers of the ring. elsewhere: layers that it is never asked for.
    told: of the bytes of those that are kept, as they come.
    """

    def __init__(
        self, pieces: Sequence[Piece], resident: Tensors, embedding: Embedding, pinned: frozenset[int], slots: int = 2,
        elsewhere: frozenset[int] = frozenset(), told: Told = nobody,
    ) -> None:
        self.pieces, self.embedding, self.pinned, self.streamed_bytes = pieces, embedding, pinned, 0
        self._resident = resident
        self._checked: set[int] = set()
        self._kept = {index: pieces[index].read(told) for index in sorted(pinned)}
        cycle = [index for index in range(len(pieces)) if index not in pinned | elsewhere]
        self._files = {index: DirectFile(pieces[index].path) for index in cycle}
        self._slots = [Buffer(max(pieces[index].size for index in cycle)) for _ in range(min(slots, len(cycle)))]
        self._views: dict[tuple[int, int], Tensors] = {}  # by buffer and by layout of the file
        self._reader = Reader(cycle, len(self._slots), self._fetch)
        self._work: Callable[[float], bool] = _nothing

    def resident(self) -> Tensors:
        return self._resident

    def embed(self, tokens: Sequence[int]) -> torch.Tensor:
        return self.embedding.rows(tokens)

    @contextmanager
    def layer(self, index: int) -> Iterator[Tensors]:
        with self.held(index) as buffer:
            self.streamed_bytes += self.disk_bytes(index)
            yield self._tensors(index, buffer)

    @contextmanager
    def held(self, index: int) -> Iterator[Buffer]:
        """The buffer that begins with layer `index`'s file, kept from being written inside the context."""
        if index in self._kept:
            yield self._kept[index]
            return
        slot = self._reader.take(index, self._work)
        try:
            yield self._slots[slot]
        finally:
            self._reader.release()

    @property
    def waited(self) -> float:
        """Seconds until what passes waited for was there, in all; those filled with work included."""
        return self._reader.waited

    @contextmanager
    def filled(self, work: Callable[[float], bool]) -> Iterator[None]:
        """Inside, a pass that would wait for the disk calls `work` instead, with the seconds it has, until that is False."""
        self._work = work
        try:
            yield
        finally:
            self._work = _nothing

    def disk_bytes(self, index: int) -> int:
        return self.pieces[index].size if index in self._files else 0

    @property
    def buffers(self) -> Sequence[Buffer]:
        """All that layers are handed out of."""
        return [*self._kept.values(), *self._slots]

    @property
    def nbytes(self) -> int:
        return sum(buffer.size for buffer in self.buffers) + sum(tensor.nbytes for tensor in self._resident.values())

    @property
    def folder(self) -> Path:
        return self.embedding.piece.path.parent

    @property
    def why_plain(self) -> str | None:
        found = (file.why_plain for file in self._files.values() if file.why_plain)
        return next(found, self.embedding.why_plain if self._files else None)

    def pause(self) -> None:
        """Leaves the disk to others: nothing is read ahead until the next layer is taken."""
        self._reader.close()

    def close(self) -> None:
        """Ends the thread and closes the files; once."""
        self.pause()
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

    def _tensors(self, index: int, buffer: Buffer) -> Tensors:
        """The same mapping for the same places in memory."""
        spans = self.pieces[index].spans
        key = (id(buffer), hash(tuple(spans.items())))
        if key not in self._views:
            self._views[key] = buffer.tensors(spans)
        return self._views[key]
