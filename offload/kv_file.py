"""Keys and values on disk: a layer's are read ahead of their use, in every pass."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from offload.buffer import PAGE, Buffer
from offload.direct import BLOCK
from offload.plan import SLOTS
from offload.reader import Reader
from offload.scratch import Scratch

HINT = "--kv-place host, or a smaller --ctx-size"


class KvFile:
    """Implements the Backing of a KV cache. A layer: `strips` of `rows` rows of `row` bytes each, one strip behind the other.

    row: of which 64 are whole pages. folder: on the disk that is to hold it. Raises what Scratch raises.
    """

    def __init__(self, folder: Path, layers: int, strips: int, rows: int, row: int) -> None:
        self.strips, self.row, self.strip, self.rows = strips, row, rows * row, 0
        self._file = Scratch(folder, layers * strips * self.strip, HINT)
        self._slots = [Buffer(strips * self.strip) for _ in range(SLOTS)]
        self._views = [slot.bytes.view(strips, self.strip) for slot in self._slots]
        self._staging = Buffer(PAGE)
        self._reader = Reader(range(layers), SLOTS, self._fetch)

    @property
    def nbytes(self) -> int:
        return self._staging.size + sum(slot.size for slot in self._slots)

    @property
    def waited(self) -> float:
        return self._reader.waited

    @contextmanager
    def layer(self, index: int) -> Iterator[torch.Tensor]:
        if not self.rows:
            yield self._views[0]
            return
        slot = self._reader.take(index)
        try:
            yield self._views[slot]
        finally:
            self._reader.release()

    def put(self, count: int, layers: Iterator[torch.Tensor]) -> None:
        self._reader.close()  # what was read ahead lacks these
        size = count * self.row
        if self._staging.size < self.strips * size:
            self._staging = Buffer(self.strips * size)
        for index, layer in enumerate(layers):
            self._staging.bytes[: layer.nbytes] = layer.flatten()
            for strip in range(self.strips):
                part = self._staging.view[strip * size : (strip + 1) * size]
                self._file.write(part, self._at(index, strip) + self.rows * self.row)
        self.rows += count

    def cut(self, rows: int) -> None:
        if rows < self.rows:
            self._reader.close()
            self.rows = rows

    def close(self) -> None:
        """Ends the thread, and the file; once."""
        self._reader.close()
        self._file.close()

    def _fetch(self, index: int, slot: int) -> bool:
        """Reads a layer into a slot; False where it was stopped."""
        size = self.rows * self.row
        for strip in range(self.strips):
            view, at = self._slots[slot].view[strip * self.strip :][:size], self._at(index, strip)
            for done in range(0, size, BLOCK):
                if self._reader.stopping:
                    return False
                self._file.read(view[done : done + BLOCK], at + done)
        return True

    def _at(self, index: int, strip: int) -> int:
        return (index * self.strips + strip) * self.strip
