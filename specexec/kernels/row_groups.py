"""Keys and values in nibbles as torch and Triton read them, and attention over them.   QuantSpec, Tiwari et al. 2025

A group is 128 rows of keys, then 128 of values, of dim/2 bytes: byte c has channel c in its low nibble, c + dim/2 in the high.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import reduce
from importlib.util import find_spec
from typing import Self

import torch

from specexec.kernels.coded import GROUP, Coded
from specexec.kernels.hierarchical import MIDDLE, SIXTEENTHS, nibbles
from specexec.kv.attention import Partial, attend_part, join

DECODED = 16  # groups that are numbers at a time

Pair = tuple[torch.Tensor, torch.Tensor]
"""(keys, values)"""


@dataclass(frozen=True)
class RowGroups(Coded):
    """On any device."""

    @classmethod
    def empty(
        cls, kv_heads: int, capacity: int, head_dim: int, bits: int, device: torch.device, together: bool = False,
    ) -> Self:
        """head_dim: even."""
        shape = capacity, cls.record(kv_heads, head_dim, bits)
        return cls(torch.zeros(shape, dtype=torch.uint8, device=device), kv_heads, head_dim, bits, together)

    @staticmethod
    def filled(head_dim: int) -> int:
        return head_dim

    def _zeros(self, shape: tuple[int, int]) -> torch.Tensor:
        return self.records.new_zeros(shape)

    def put(self, first: int, k: torch.Tensor, v: torch.Tensor) -> None:
        """k, v[kv_heads, groups * 128, head_dim] become the groups from `first` on."""
        start, end = first - self.first, 2 * self.head_dim
        of = slice(start, start + k.shape[1] // GROUP)
        for part, (x, along) in enumerate(((k, 2), (v, 3))):
            upper, lower, scale, zero = nibbles(x.float().reshape(len(x), -1, GROUP, self.head_dim), along)
            self._codes(self.upper)[:, of, part] = _packed(upper)
            if self.lower is not None:
                self._codes(self.lower)[:, of, part] = _packed(lower)
            held = self.scales[:, of, end:] if part else self.scales[:, of, :end]
            held[:] = torch.cat((scale.flatten(2), zero.flatten(2)), 2)

    def decoded(self, first: int, last: int, bits: int) -> Pair:
        """fp32 keys, values[kv_heads, rows, head_dim] of groups first..last - 1."""
        codes = self._numbers(slice(first, last), bits)
        scale, zero = self._of_channels(slice(first, last)).unsqueeze(2).chunk(2, -1)
        of_row, zero_of_row = self._of_rows(slice(first, last)).unsqueeze(3).chunk(2, 2)
        return ((codes[:, :, 0] * scale + zero).flatten(1, 2), (codes[:, :, 1] * of_row + zero_of_row).flatten(1, 2))

    def picked(self, rows: torch.Tensor) -> Pair:
        """fp32 keys, values[kv_heads, m, head_dim] of rows int64[kv_heads, m], by the upper nibbles."""
        heads, group = torch.arange(len(rows), device=rows.device)[:, None], rows // GROUP - self.first
        row = rows % GROUP
        codes = self._codes(self.upper)
        keys, values = (_unpacked(codes[heads, group, part, row]) for part in (0, 1))
        scale, zero = self.scales[heads, group, : 2 * self.head_dim].float().chunk(2, -1)
        of_row, zero_of_row = (self.scales[heads, group, 2 * self.head_dim + part * GROUP + row].float() for part in (0, 1))
        return keys * scale + zero, values * of_row.unsqueeze(2) + zero_of_row.unsqueeze(2)

    def mean_keys(self, first: int, last: int, chunk: int) -> torch.Tensor:
        of = slice(first * chunk // GROUP, -(-last * chunk // GROUP))
        codes = _unpacked(self._codes(self.upper)[:, of, 0])
        means = codes.view(*codes.shape[:2], -1, chunk, self.head_dim).mean(3)
        scale, zero = self._of_channels(of).unsqueeze(2).chunk(2, -1)
        start = of.start * GROUP // chunk
        return (means * scale + zero).flatten(1, 2)[:, first - start : last - start]

    def _of_channels(self, of: slice) -> torch.Tensor:
        """fp32[kv_heads, groups, 2 * head_dim]: scales and zeros of keys."""
        return self.scales[:, of, : 2 * self.head_dim].float()

    def _of_rows(self, of: slice) -> torch.Tensor:
        """fp32[kv_heads, groups, 256]: of values."""
        return self.scales[:, of, 2 * self.head_dim :].float()

    def _codes(self, plane: torch.Tensor) -> torch.Tensor:
        """uint8[kv_heads, capacity, 2, 128, head_dim / 2]"""
        return plane.view(*plane.shape[:2], 2, GROUP, self.head_dim // 2)

    def _numbers(self, of: slice, bits: int) -> torch.Tensor:
        """fp32[kv_heads, groups, 2, 128, head_dim]: codes in steps."""
        upper = _unpacked(self._codes(self.upper)[:, of])
        if bits == 4:
            return upper
        assert self.lower is not None
        return upper + (_unpacked(self._codes(self.lower)[:, of]) - MIDDLE) / SIXTEENTHS


def _packed(codes: torch.Tensor) -> torch.Tensor:
    low, high = codes.byte().chunk(2, -1)
    return low | high << 4


def _unpacked(packed: torch.Tensor) -> torch.Tensor:
    """fp32, two codes a byte."""
    return torch.cat((packed & 15, packed >> 4), -1).float()


def attend(
    q: torch.Tensor, groups: RowGroups, count: int, bits: int, first: torch.Tensor | None = None,
) -> Partial:
    """Attention of scaled q[heads, n, head_dim] over the first `count` groups. bits: 8, or 4: the upper nibbles.

    first: int[n], the first position each query sees; None: all see all.
    """
    if q.is_cuda and find_spec("triton"):
        from specexec.kernels import hierarchical_triton

        return hierarchical_triton.attend(q, groups, count, bits, first)
    return reference(q, groups, count, bits, first)


def reference(
    q: torch.Tensor, groups: RowGroups, count: int, bits: int, first: torch.Tensor | None = None,
) -> Partial:
    """The same in plain torch, some groups at a time."""
    return reduce(join, _parts(q, groups, count, bits, first))


def _parts(
    q: torch.Tensor, groups: RowGroups, count: int, bits: int, first: torch.Tensor | None,
) -> Iterator[Partial]:
    for at in range(0, count, DECODED):
        k, v = (part.to(q.dtype) for part in groups.decoded(at, min(count, at + DECODED), bits))
        yield attend_part(q, k, v, _bias(q, first, at * GROUP, k.shape[1]))


def _bias(q: torch.Tensor, first: torch.Tensor | None, start: int, count: int) -> torch.Tensor:
    """fp32[n, count] for keys at positions start..; none where all see all."""
    if first is None:
        return torch.zeros(q.shape[1], 0, device=q.device)
    hidden = torch.arange(start, start + count, device=q.device) < first[:, None]
    return torch.zeros(hidden.shape, device=q.device).masked_fill_(hidden, -torch.inf)
