"""Keys and values in nibbles, groups of 128 positions: where a layer's parts lie, whatever the order of the codes in them."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Self

import torch

GROUP = 128  # positions


@dataclass(frozen=True)
class Coded(ABC):
    """One layer's groups, whose codes are in some order.

    records: uint8[capacity, bytes]. together: each is a group, `upper` of all heads, `scales` and `lower`, and perhaps more, of
    no meaning; else a part's groups of one head lie one behind the other, which is read faster. bits: 8 or 4. first: the group
    that lies first.
    """

    records: torch.Tensor
    kv_heads: int
    head_dim: int
    bits: int
    together: bool = False
    first: int = 0

    @property
    def capacity(self) -> int:
        return len(self.records)

    @property
    def nbytes(self) -> int:
        return self.records.nbytes

    @cached_property
    def dim(self) -> int:
        """Of a head, as it is filled up."""
        return self.filled(self.head_dim)

    @cached_property
    def upper(self) -> torch.Tensor:
        """uint8[kv_heads, capacity, 128 * dim], two codes a byte."""
        return self._part(0, GROUP * self.dim)

    @cached_property
    def lower(self) -> torch.Tensor | None:
        """The same; None for four bits a number."""
        start = self.kv_heads * (GROUP * self.dim + 4 * (self.dim + GROUP))
        return self._part(start, GROUP * self.dim) if self.bits == 8 else None

    @cached_property
    def scales(self) -> torch.Tensor:
        """fp16[kv_heads, capacity, 2 * dim + 256]: keys' scales and zeros, then values'."""
        return self._part(self.kv_heads * GROUP * self.dim, 4 * (self.dim + GROUP)).view(torch.float16)

    @classmethod
    def record(cls, kv_heads: int, head_dim: int, bits: int) -> int:
        """Bytes of a group."""
        dim = cls.filled(head_dim)
        return kv_heads * (GROUP * dim * bits // 4 + 4 * (dim + GROUP))

    def grown(self, capacity: int) -> Self:
        """A larger one with the same groups."""
        larger = self.over(self._zeros((capacity, self.records.shape[1])))
        for old, new in zip(self.parts(), larger.parts(), strict=True):
            new[:, : self.capacity] = old
        return larger

    def parts(self) -> list[torch.Tensor]:
        """[kv_heads, capacity, size] each."""
        return [part for part in (self.upper, self.lower, self.scales) if part is not None]

    def over(self, records: torch.Tensor, first: int | None = None) -> Self:
        """The same in another place."""
        return replace(self, records=records, first=self.first if first is None else first)

    def _part(self, start: int, size: int) -> torch.Tensor:
        """uint8[kv_heads, capacity, size], what begins at byte `start` of each group where they lie together."""
        heads, count = self.kv_heads, self.capacity
        if self.together:
            return self.records[:, start : start + heads * size].view(count, heads, size).transpose(0, 1)
        return self.records.view(-1)[start * count : (start + heads * size) * count].view(heads, count, size)

    @staticmethod
    @abstractmethod
    def filled(head_dim: int) -> int:
        """Of how many numbers a head consists."""

    @abstractmethod
    def _zeros(self, shape: tuple[int, int]) -> torch.Tensor:
        """Of bytes."""

    @abstractmethod
    def mean_keys(self, first: int, last: int, chunk: int) -> torch.Tensor:
        """fp32[kv_heads, last - first, dim]: of chunks first..last - 1 of `chunk` rows, whole tiles, by the upper nibbles."""
