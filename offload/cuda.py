"""All that streaming asks of CUDA, through torch."""

from typing import Any

import torch

from offload.errors import OffloadError
from offload.lane import Device, Mark, Unlock

PORTABLE = 1  # cudaHostRegisterPortable: locked for every device


class CudaLane:
    """Implements Lane. stream: None for whichever the caller's thread computes on."""

    def __init__(self, place: torch.device, stream: torch.cuda.Stream | None = None) -> None:
        self.place, self._own = place, stream

    @property
    def _stream(self) -> torch.cuda.Stream:
        return self._own or torch.cuda.current_stream(self.place)

    def copy(self, to: torch.Tensor, of: torch.Tensor) -> None:
        with torch.cuda.stream(self._stream):
            to.copy_(of, non_blocking=True)

    def record(self) -> Mark:
        event = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]  # whoever waits sleeps
        event.record(self._stream)
        return event

    def wait(self, mark: Mark) -> None:
        assert isinstance(mark, torch.cuda.Event)
        self._stream.wait_event(mark)


def cuda(place: torch.device) -> Device:
    """The CUDA device `place`, with a stream of its own for copies."""
    beside = torch.cuda.Stream(place)  # type: ignore[no-untyped-call]
    return Device(place, CudaLane(place, beside), CudaLane(place), page_lock)


def free_vram(place: torch.device) -> int:
    """Bytes that nobody uses: what torch holds and has given back counts as used."""
    free, _ = torch.cuda.mem_get_info(place)
    return free


def page_lock(memory: torch.Tensor) -> Unlock:
    """Makes copies of this machine's `memory` run beside everything else, at the bus's full speed."""
    runtime, at = torch.cuda.cudart(), memory.data_ptr()  # type: ignore[no-untyped-call]
    _check(runtime.cudaHostRegister(at, memory.nbytes, PORTABLE), f"page-locking {memory.nbytes:,} bytes of memory")
    return lambda: _check(runtime.cudaHostUnregister(at), "unlocking memory")


def _check(result: Any, what: str) -> None:
    if int(result):
        raise OffloadError(f"{what} failed with CUDA's error {int(result)}.", hint="a smaller --ram, or --device cpu")
