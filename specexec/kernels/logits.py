"""Rows of logits, read once for their best entries and their log-sum-exp (logits.cpp)."""

import ctypes
from collections.abc import Sequence

import torch

from specexec.kernels import table

MOST = 1024  # entries: of more, most insertions go deep, and whole rows are sorted faster


def fits(x: torch.Tensor, k: int) -> bool:
    """Whether the kernel reads such rows, and there is one."""
    return k <= MOST and x.device.type == "cpu" and x.dtype == torch.float32 and x.stride(-1) == 1 and table.table() is not None


def read(
    x: torch.Tensor, k: int, noise: Sequence[torch.Tensor], a: float, b: float, log_sum_exp: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """(values fp32[n, k], ids int64[n, k]) of the k <= V largest a x + b noise of fp32 x[n, V], or x where there is no noise.

    Largest first, of equal ones the lower id first, NaN last; rounded once where a and b are 1. noise: fp32[V] of each row.
    log_sum_exp: fp32[n], filled with that of x.
    """
    values, ids = torch.empty(len(x), k), torch.empty(len(x), k, dtype=torch.int64)
    rows = (ctypes.c_void_p * len(noise))(*(row.data_ptr() for row in noise)) if noise else None
    total = log_sum_exp.data_ptr() if log_sum_exp is not None else None
    of = table.Logits(x.data_ptr(), rows, ids.data_ptr(), values.data_ptr(), total, *x.shape, x.stride(0), k, a, b,
                      table.threads())
    table.needed().read(ctypes.byref(of))
    return values, ids
