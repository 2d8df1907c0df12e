"""Rows of logits, read once for their best entries and their log-sum-exp, or for a draft's likeliest picks (logits.cpp)."""

import ctypes
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from specexec.kernels import table
from specexec.online import Ids, Vector

MOST = 1024  # entries: of more, most insertions go deep, and whole rows are sorted faster


class Off(NamedTuple):
    """What rows are off by: row i by values[starts[i]:starts[i + 1]] at those ids, of which one may come more than once."""

    starts: Ids
    ids: Ids
    values: Vector


class Guesses(NamedTuple):
    """The likeliest picks of n rows. scores: log softmax of a log q + b noise among these and all others, which weigh as one.

    own: the log-sum-exp of each row at the temperature, without what it is off by.
    """

    ids: Ids  # [n, k]
    log_q: Vector  # [n, k]
    noise: Vector  # [n, k]
    scores: Vector  # [n, k]
    own: Vector  # [n]


class Ranking(NamedTuple):
    """By a z + b noise. noise: fp32[V] of each row; none where all of it is zero. least: of q, what is left to all others."""

    noise: Sequence[torch.Tensor]
    a: float
    b: float
    least: float
    loud: float  # the noise of all others together


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
    total = log_sum_exp.data_ptr() if log_sum_exp is not None else None
    of = table.Logits(x.data_ptr(), _rows(noise), ids.data_ptr(), values.data_ptr(), total, *x.shape, x.stride(0), k, a, b,
                      table.threads())
    table.needed().read(ctypes.byref(of))
    return values, ids


class First:
    """The largest entry of a row of so many, and its lead, as `read` says of two: for rows one after another."""

    def __init__(self, columns: int) -> None:
        self._values, self._ids = (ctypes.c_float * 2)(), (ctypes.c_int64 * 2)()
        ids, values = ctypes.addressof(self._ids), ctypes.addressof(self._values)
        self._of = table.Logits(0, None, ids, values, None, 1, columns, columns, 2, 1.0, 1.0, table.threads())
        self._read, self._asked = table.needed().read, ctypes.byref(self._of)

    def __call__(self, row: torch.Tensor) -> tuple[int, float]:
        """Of fp32[1, columns] that `fits`; the lead is rounded to fp32, as all are."""
        self._of.x = row.data_ptr()
        self._read(self._asked)
        most, second = self._values
        return self._ids[0], ctypes.c_float(most - second).value


def guess(x: torch.Tensor, k: int, ranking: Ranking, temperature: float, off: Off, kept: torch.Tensor) -> Guesses:
    """The k <= V first of fp32 x[n, V], where z is x over the temperature and what it is off by.

    kept: fp32[m <= n, V], filled with the first rows over the temperature.
    """
    log_q, noise, scores = np.empty((3, len(x), k))
    found = Guesses(np.empty((len(x), k), np.int64), log_q, noise, scores, np.empty(len(x)))
    of = table.Guesses(x.data_ptr(), _rows(ranking.noise), *(part.ctypes.data for part in off), kept.data_ptr(),
                       *(part.ctypes.data for part in found), *x.shape, x.stride(0), k, len(kept), ranking.least,
                       ranking.loud, ranking.a, ranking.b, temperature, table.threads())
    table.needed().guess(ctypes.byref(of))
    return found


def _rows(noise: Sequence[torch.Tensor]) -> "ctypes.Array[ctypes.c_void_p] | None":
    return (ctypes.c_void_p * len(noise))(*(row.data_ptr() for row in noise)) if noise else None
