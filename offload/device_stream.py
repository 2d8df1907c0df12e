"""Layers on their way to a device: a fixed set stays there, the others pass through a ring of its buffers ahead of their use.

A layer's computation waits, on the device, for its copy; the copy into a buffer waits for the computation that read it last.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import torch

from offload.device_buffer import DeviceBuffer
from offload.errors import OffloadError
from offload.lane import Device, Mark
from offload.piece import Piece
from offload.reader import Reader
from offload.stream import Streamer, Tensors


class DeviceStream:
    """Implements Streaming and the engine's WeightSource, in a device's memory. host: hands over what does not stay there.

    kept: buffers of layers that do, filled. ring: two at least, where any do not. copied_bytes: handed to passes so far.
    """

    def __init__(
        self, host: Streamer, resident: Tensors, kept: Mapping[int, DeviceBuffer], ring: Sequence[DeviceBuffer], device: Device,
    ) -> None:
        self.host, self._resident, self._kept, self._ring, self._device = host, resident, kept, ring, device
        self.copied_bytes = self.streamed_bytes = 0
        self._reading = ExitStack()
        born = device.compute.record()  # memory that was just taken may be in use by what is queued
        self._released: list[Mark] = [born] * len(ring)  # since when each buffer may be written
        self._copied: list[Mark] = [born] * len(ring)  # since when it may be read
        cycle = [index for index in range(len(host.pieces)) if index not in kept]
        self._copier = Reader(cycle, len(ring), self._copy, self._settle)
        with ExitStack() as closing:
            closing.callback(host.close)
            for buffer in host.buffers:
                closing.callback(device.lock(buffer.bytes))
            closing.callback(self._copier.close)
            self._closing = closing.pop_all()

    def resident(self) -> Tensors:
        return self._resident

    def embed(self, tokens: Sequence[int]) -> torch.Tensor:
        """Of this machine's memory: the embedding stays on disk."""
        return self.host.embed(tokens)

    @contextmanager
    def layer(self, index: int) -> Iterator[Tensors]:
        """Raises OffloadError, naming the layer, where its copy fails; what was computed with it is then worth nothing."""
        spans = self.pieces[index].spans
        if index in self._kept:
            yield self._kept[index].tensors(spans)
            return
        slot = self._copier.take(index)
        self.copied_bytes += self.pieces[index].size
        self.streamed_bytes += self.disk_bytes(index)
        copied = self._copied[slot]
        self._device.compute.wait(copied)
        try:
            yield self._ring[slot].tensors(spans)
        finally:
            self._released[slot] = self._device.compute.record()
            self._copier.release()
        self._confirm(index, copied)

    @property
    def nbytes(self) -> int:
        """In the device's memory, but for what is resident."""
        return sum(buffer.nbytes for buffer in [*self._kept.values(), *self._ring])

    @property
    def pieces(self) -> Sequence[Piece]:
        return self.host.pieces

    @property
    def folder(self) -> Path:
        return self.host.folder

    @property
    def why_plain(self) -> str | None:
        return self.host.why_plain

    def disk_bytes(self, index: int) -> int:
        return self.host.disk_bytes(index)

    def pause(self) -> None:
        self._copier.close()
        self.host.pause()

    def close(self) -> None:
        """Ends the copies, unlocks the memory, ends the reading. Once more, it does nothing."""
        self._closing.close()

    def _copy(self, index: int, slot: int) -> bool:
        """Queues a layer's copy into a buffer of the ring; True."""
        piece, lane = self.pieces[index], self._device.copies
        try:
            buffer = self._reading.enter_context(self.host.held(index))
            with _named(index):
                lane.wait(self._released[slot])
                self._ring[slot].fill(lane, piece, buffer.bytes[: piece.size])
                self._copied[slot] = lane.record()
        except BaseException:
            self._abandon()
            raise
        return True

    def _settle(self, index: int, slot: int) -> None:
        """Gives the host's buffer back once the device has read it."""
        with self._reading, _named(index):
            self._copied[slot].synchronize()

    def _abandon(self) -> None:
        """The same where only a part of a copy may have been queued."""
        with self._reading, suppress(RuntimeError):
            self._device.copies.record().synchronize()

    def _confirm(self, index: int, copied: Mark) -> None:
        """No later than here a copy that failed is known, before anybody looks at what was computed with it.

        Costs nothing: the next layer's copy comes after this one in any case.
        """
        try:
            with _named(index):
                copied.synchronize()
        except OffloadError:
            self._copier.close()  # which forgets that error: the next pass copies anew
            raise


@contextmanager
def _named(index: int) -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        reason = str(error).partition("\n")[0].rstrip(".")
        raise OffloadError(f"copying layer {index} to the device failed: {reason}.",
                           hint="the same command again; if it stays, --device cpu") from error
