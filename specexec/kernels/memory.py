"""Large buffers in huge pages, where the system has them: every key and weight is read once a pass, in order."""

import math
import mmap

import torch

HUGE = 2**21  # bytes of a huge page
WORTH = 2 * HUGE


def zeros(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """A tensor of zeros; its pages are taken when first written."""
    count = math.prod(shape)
    size = count * dtype.itemsize
    if size < WORTH or not hasattr(mmap, "MADV_HUGEPAGE"):
        return torch.zeros(shape, dtype=dtype)
    room = mmap.mmap(-1, size + HUGE)
    room.madvise(mmap.MADV_HUGEPAGE)
    whole = torch.frombuffer(room, dtype=torch.uint8)
    start = -whole.data_ptr() % HUGE
    return whole[start : start + size].view(dtype).view(shape)
