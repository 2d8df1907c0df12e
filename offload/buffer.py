"""Memory that a disk reads into at full speed: whole huge pages, touched once."""

import mmap
from collections.abc import Mapping
from dataclasses import dataclass

import torch

HUGE = 2**21  # bytes; 4 KiB pages make a read three times slower
PAGE = 2**12


@dataclass(frozen=True)
class Span:
    """Where a tensor lies in a file, or in a buffer that holds it: bytes start..end."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    end: int


class Buffer:
    """`size` bytes, aligned to a huge page. view: all of them, for reading into."""

    def __init__(self, size: int) -> None:
        self.size = size
        room = mmap.mmap(-1, -(-size // HUGE) * HUGE + HUGE)
        if hasattr(mmap, "MADV_HUGEPAGE"):
            room.madvise(mmap.MADV_HUGEPAGE)
        whole = torch.frombuffer(room, dtype=torch.uint8)
        start = -whole.data_ptr() % HUGE
        self.bytes = whole[start : start + size]
        self.view = memoryview(room)[start : start + size]
        self.bytes[::PAGE] = 0  # its pages are there from now on, and counted

    def tensors(self, spans: Mapping[str, Span]) -> dict[str, torch.Tensor]:
        """Views of the tensors of a file that lies in this buffer."""
        return {name: self.bytes[at.start : at.end].view(at.dtype).view(at.shape) for name, at in spans.items()}
