"""Keys and values in this machine's memory, for a device: a layer's are copied to one of two buffers ahead of their use."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch

from offload.buffer import Buffer
from offload.errors import OffloadError
from offload.lane import Device, Mark
from offload.plan import SLOTS


class KvHost:
    """Implements the Backing of a KV cache on a device. A layer: `strips` of `rows` rows of `row` bytes each.

    All of it is page-locked until `close`. A layer's copy is queued when the layer before it is handed out, behind the mark of
    what read that buffer last; rows that are added go the other way, behind the mark of what made them.
    """

    waited = 0.0  # by the device alone

    def __init__(self, device: Device, layers: int, strips: int, rows: int, row: int) -> None:
        self.device, self.row, self.rows = device, row, 0
        self._held = [Buffer(strips * rows * row) for _ in range(layers)]
        self._host = [buffer.bytes.view(strips, rows * row) for buffer in self._held]
        self._ring = [torch.empty(strips, rows * row, dtype=torch.uint8, device=device.place) for _ in range(SLOTS)]
        born = device.compute.record()  # memory that was just taken may be in use by what is queued
        self._copied: list[Mark] = [born] * SLOTS  # since when each buffer may be read
        self._released: list[Mark] = [born] * SLOTS  # since when it may be written
        self._coming: tuple[int, int] | None = None  # (layer, slot) of the copy queued last, that nobody has taken
        with ExitStack() as closing:
            for buffer in self._held:
                closing.callback(device.lock(buffer.bytes))
            self._closing = closing.pop_all()

    @property
    def nbytes(self) -> int:
        return sum(slot.nbytes for slot in self._ring)

    @contextmanager
    def layer(self, index: int) -> Iterator[torch.Tensor]:
        """Raises OffloadError where its copy fails; what was computed with it is then worth nothing."""
        slot = self._take(index)
        copied = self._copied[slot]
        self.device.compute.wait(copied)
        self._coming = self._queued((index + 1) % len(self._host), 1 - slot)
        try:
            yield self._ring[slot]
        finally:
            self._released[slot] = self.device.compute.record()
        with self._named():
            copied.synchronize()  # costs nothing: the next layer's copy comes after this one

    def put(self, count: int, layers: Iterator[torch.Tensor]) -> None:
        self._coming = None  # which lacks these
        start, size = self.rows * self.row, count * self.row
        copies, compute = self.device.copies, self.device.compute
        for host, layer in zip(self._host, layers, strict=True):
            with self._named():
                copies.wait(compute.record())
                for to, of in zip(host, layer, strict=True):
                    copies.copy(to[start : start + size], of)
                back = copies.record()
                back.synchronize()  # before the memory that was copied from is used again
        self.rows += count

    def cut(self, rows: int) -> None:
        self.rows = min(rows, self.rows)

    def close(self) -> None:
        """Unlocks the memory, once the device is done with it. Once more, it does nothing."""
        self.device.copies.record().synchronize()
        self._closing.close()

    def _take(self, index: int) -> int:
        """The slot that the layer's rows are in, or will be."""
        if self._coming is None or self._coming[0] != index:
            self._coming = self._queued(index, 0 if self._coming is None else self._coming[1])
        return self._coming[1]

    def _queued(self, index: int, slot: int) -> tuple[int, int]:
        copies, size = self.device.copies, self.rows * self.row
        with self._named():
            copies.wait(self._released[slot])
            for to, of in zip(self._ring[slot], self._host[index], strict=True):
                if size:
                    copies.copy(to[:size], of[:size])
            self._copied[slot] = copies.record()
        return index, slot

    @contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            self._coming = None
            reason = str(error).partition("\n")[0].rstrip(".")
            raise OffloadError(f"copying keys and values between this machine and the device failed: {reason}.",
                               hint="the same command again; if it stays, --kv-place device") from error
