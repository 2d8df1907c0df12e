"""Keys and values in nibbles, groups of 128 positions (group.h), and the same in torch.   QuantSpec, Tiwari et al. 2025

An upper nibble, rounded, and a lower one, the error of the first in sixteenths of its step. Keys have a scale and a zero per
channel of a group, values per token, in fp16.
"""

from dataclasses import dataclass
from typing import Self

import torch

from specexec.kernels import memory, table
from specexec.kernels.attention import EIGHT, Buffers, laid, padded
from specexec.kernels.coded import GROUP, Coded

__all__ = ["GROUP", "Groups", "nibbles", "numbers", "rounded"]
EIGHTS = GROUP // EIGHT
LEVELS, SIXTEENTHS, MIDDLE = 15, 16, 8


@dataclass(frozen=True)
class Groups(Coded):
    """Codes as group.h has them."""

    @classmethod
    def empty(cls, kv_heads: int, capacity: int, head_dim: int, bits: int, record: int | None = None) -> Self:
        """record: bytes from one group to the next where they lie together."""
        shape = capacity, record or cls.record(kv_heads, head_dim, bits)
        return cls(memory.zeros(shape, torch.uint8), kv_heads, head_dim, bits, record is not None)

    @staticmethod
    def filled(head_dim: int) -> int:
        return padded(head_dim)

    def _zeros(self, shape: tuple[int, int]) -> torch.Tensor:
        return memory.zeros(shape, torch.uint8)

    def struct(self, groups: int, bits: int, follows: bool, tiles: torch.Tensor | None = None) -> table.Quantised:
        """groups: that are there, the first of all included. bits: that are read. follows, tiles (int32[kv_heads, chosen]): as
        kernels.h has them.
        """
        lower = self.lower.data_ptr() if self.lower is not None else None
        at, chosen = (None, 0) if tiles is None else (tiles.data_ptr(), tiles.shape[1])
        return table.Quantised(self.upper.data_ptr(), lower, self.scales.data_ptr(), *self.upper.stride()[:2],
                               *self.scales.stride()[:2], self.first, groups, self.head_dim, bits, follows, at, chosen)

    def taken(self, heads: torch.Tensor, eights: torch.Tensor) -> Buffers:
        """As attention.taken has it: eights of rows by the upper nibbles, in bf16."""
        dim, of = self.dim, (heads, eights // EIGHTS - self.first)
        codes, scales = self.upper[of].view(-1, 2, 2, 32 * dim), self.scales[of].float()
        each, at = torch.arange(len(eights)), eights % EIGHTS
        block, part = codes[each, at // 8], torch.arange(EIGHT) + EIGHT * at[:, None]
        keys = block[:, 0].view(-1, 4, dim // 8, 2, EIGHT, 4)[each, at % 8 // 2, :, at % 2]
        keys = torch.stack((keys & 15, keys >> 4), 3).transpose(1, 2).flatten(2).float()  # [m, 8, dim]
        values = block[:, 1].view(-1, dim // 16, 8, 16, 4)[each, :, at % 8]
        values = torch.cat((values & 15, values >> 4), 3).flatten(1, 2).transpose(1, 2).float()
        scale, zero = scales[:, None, : 2 * dim].chunk(2, -1)
        of_row, zero_of_row = (scales[each[:, None], 2 * dim + start + part][..., None] for start in (0, GROUP))
        return laid(keys * scale + zero, values * of_row + zero_of_row)

    def mean_keys(self, first: int, last: int, chunk: int) -> torch.Tensor:
        heads, dim = self.kv_heads, self.dim
        of = slice(first * chunk // GROUP, -(-last * chunk // GROUP))
        tiles = self.upper[:, of].view(heads, -1, 2, 2, 32 * dim)[:, :, :, 0].reshape(heads, -1, 8, dim // 8, 16, 4)
        halves = torch.stack(((tiles & 15).sum(4, dtype=torch.int32), (tiles >> 4).sum(4, dtype=torch.int32)), 4)
        scale, zero = self.scales[:, of, None, : 2 * dim].float().chunk(2, -1)
        means = (halves.flatten(3) / 16 * scale + zero).flatten(1, 2)  # of tiles
        start = of.start * GROUP // chunk
        return means.view(heads, -1, chunk // 16, dim).mean(2)[:, first - start : last - start]


def nibbles(x: torch.Tensor, dim: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """(upper and lower codes 0..15 of fp32 x, scales, zeros): what the kernels make of a group that lies along `dim`.

    The zero is the fp16 number next below the least value, the scale the one next above what the largest then asks for.
    """
    zero = _half(x.amin(dim, keepdim=True), below=True)
    scale = _half((x.amax(dim, keepdim=True) - zero) / LEVELS, below=False)
    step = torch.where(scale > 0, scale, 1.0)
    upper = ((x - zero) / step).round().clamp(0, LEVELS) * (scale > 0)
    lower = ((x - (scale * upper + zero)) * SIXTEENTHS / step).round() + MIDDLE
    return upper, torch.where(scale > 0, lower.clamp(0, LEVELS), MIDDLE), scale, zero


def numbers(x: torch.Tensor, dim: int, bits: int) -> torch.Tensor:
    """What is left of fp32 x in 4 or 8 bits, by groups along `dim`."""
    upper, lower, scale, zero = nibbles(x, dim)
    return scale * (upper + (lower - MIDDLE) / SIXTEENTHS * (bits == 8)) + zero


def rounded(k: torch.Tensor, v: torch.Tensor, bits: int) -> tuple[torch.Tensor, torch.Tensor]:
    """fp32 k, v[kv_heads, rows, head_dim] as whole groups are read; the rows after the last whole one as they are."""
    whole = k.shape[1] // GROUP * GROUP
    grouped = k[:, :whole].reshape(len(k), whole // GROUP, GROUP, k.shape[2])
    keys = numbers(grouped, 2, bits).flatten(1, 2) if whole else k[:, :0]
    return torch.cat((keys, k[:, whole:]), 1), torch.cat((numbers(v[:, :whole], 2, bits), v[:, whole:]), 1)


def _half(x: torch.Tensor, below: bool) -> torch.Tensor:
    """fp32, the fp16 number next below or above."""
    largest = torch.finfo(torch.float16).max
    near = x.clamp(-largest, largest).half()
    wrong = near.float() > x if below else near.float() < x
    towards = torch.tensor(-torch.inf if below else torch.inf, dtype=torch.float16)
    stepped = _next(near, towards)
    return torch.where(wrong, stepped, near).float().clamp(-largest, largest)


def _next(x: torch.Tensor, towards: torch.Tensor) -> torch.Tensor:
    """The fp16 number after x; torch.nextafter knows none."""
    bits = x.view(torch.int16).int()
    order = torch.where(bits < 0, -(bits & 0x7FFF), bits) + (1 if towards > 0 else -1)
    back = torch.where(order < 0, -order | -0x8000, order)
    return back.to(torch.int16).view(torch.float16)
