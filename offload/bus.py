"""The device beside the processor: what is free on it, and how fast bytes get there."""

import statistics

import torch

COPY = 2**28  # bytes
COPIES = 5


def device() -> str | None:
    """The CUDA device's name, None without one."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else None


def free_vram() -> int | None:
    return torch.cuda.mem_get_info()[0] if torch.cuda.is_available() else None


def rate(size: int = COPY) -> float:
    """Bytes a second from page-locked memory to the device: the median of several copies of `size` bytes."""
    host = torch.empty(size, dtype=torch.uint8, pin_memory=True)
    there = torch.empty(size, dtype=torch.uint8, device="cuda")
    there.copy_(host)
    return size / statistics.median(_copy(there, host) for _ in range(COPIES))


def _copy(there: torch.Tensor, host: torch.Tensor) -> float:
    """Seconds."""
    began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    began.record()
    there.copy_(host, non_blocking=True)
    ended.record()
    ended.synchronize()
    return float(began.elapsed_time(ended)) / 1e3
