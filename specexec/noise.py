"""The noise every sampler and drafter of one answer shares: Gumbel variables from a counter.   Philox, Salmon et al. 2011

g[v] depends on the seed, the answer's number in its conversation, the token's index within the answer and the token's id,
and on nothing else: not on the drafter, the tree, the budget or the vocabulary's size.
"""

import ctypes
from collections import OrderedDict
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch

from specexec.kernels import table

SEEDS = 2**64
LAST, ROOT_HALF = np.uint64(2**53 - 2), 0.5**0.5  # one more would be rounded to 1
LN2, LN2_REST = map(float.fromhex, ("0x1.62e42feep-1", "0x1.a39ef35793c76p-33"))  # the first has few bits: k LN2 is exact
KEPT = 64  # positions; a deep tree revisits each level many times


def gumbel(seed: int, answer: int, index: int, size: int) -> torch.Tensor:
    """fp32[size]: -log(-log u) in float64 of 53-bit uniforms u in (0, 1), rounded once; the same bits on every machine."""
    out = torch.empty(size)
    if (kernels := table.table()) is None:
        return out.copy_(torch.from_numpy(_gumbel(seed % SEEDS, answer, index, size)))
    kernels.noise(ctypes.byref(table.Noise(seed % SEEDS, answer, index, out.data_ptr(), size, table.threads())))
    return out


def _gumbel(seed: int, answer: int, index: int, size: int) -> npt.NDArray[np.float64]:
    """What noise.cpp does, step by step."""
    bits = np.random.Philox(key=seed, counter=np.array([0, 0, index, answer], dtype=np.uint64)).random_raw(size)
    whole = np.minimum(bits >> np.uint64(11), LAST).astype(np.float64)
    return -_logarithm(-_logarithm((whole + 0.5) * 2.0**-53))


def _logarithm(x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Of normal x > 0. numpy's own depends on the machine: here are only +, -, * and /, which are rounded alike everywhere."""
    half, exponent = np.frexp(x)
    low = half < ROOT_HALF
    m, k = np.where(low, half + half, half), exponent - low
    s = (m - 1) / (m + 1)
    z = s * s
    p = np.full_like(z, 2 / 21)  # 2 artanh(s)
    for odd in range(19, 1, -2):
        p = p * z + 2 / odd
    found: npt.NDArray[np.float64] = k * LN2 + ((s + s) + (s * (z * p) + k * LN2_REST))
    return found


@dataclass
class Noise:
    """One answer's noise, by absolute position in the context.

    origin: position of the answer's first token. silent: the greedy case, zeros everywhere.
    """

    seed: int
    answer: int
    origin: int
    size: int
    silent: bool = False
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    _kept: OrderedDict[int, torch.Tensor] = field(default_factory=OrderedDict, repr=False)

    def at(self, position: int) -> torch.Tensor:
        """fp32[size]: the noise of the token that stands at `position`."""
        if position not in self._kept:
            self._kept[position] = self._fresh(position - self.origin).to(self.device)
            if len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        return self._kept[position]

    def _fresh(self, index: int) -> torch.Tensor:
        return torch.zeros(self.size) if self.silent else gumbel(self.seed, self.answer, index, self.size)
