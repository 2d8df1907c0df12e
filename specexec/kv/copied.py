"""Views of a cache whose rows are elsewhere: chosen rows are copied, and all layers gone through only where a choice is made.

TriForce's retrieval cache beside an offloaded one, Sun et al. 2024
"""

from typing import Protocol

import torch

from specexec.kernels import attention
from specexec.kernels.attention import EIGHT, EIGHTS, Buffers
from specexec.kv.backing import BLOCK
from specexec.kv.blocks import BlockCache, OverBlocks
from specexec.kv.choice import Gather
from specexec.kv.dense import DenseCache
from specexec.kv.retrieval import DenseGathering, Gathering, gather
from specexec.kv.view import Base

__all__ = ["CopiedBlocks", "CopiedDense", "gather"]


class Apart(Base, Protocol):
    """A cache of the kernels, `away` of whose committed rows are elsewhere."""

    head_dim: int

    @property
    def away(self) -> int: ...

    def pick(self, layer: int, to: Buffers, first: int, eights: torch.Tensor) -> None:
        """The eights from `first` on of `to` become a layer's eights int[kv_heads, m] of committed rows."""


class CopiedBlocks(OverBlocks[Apart], Gathering[Apart, BlockCache]):
    """For the kernels. Rows committed since the choice are among those that stayed, and are copied from there."""

    def __init__(self, base: Apart, of: Gather) -> None:
        super().__init__(base, BlockCache(base.layers, base.kv_heads, base.head_dim), of)
        self._copies: list[Buffers] = []
        self._made = self._picked = self._covered = 0  # which choice they are of; rows then copied, and those they are among
        self._held: list[object] = []  # what the kernels are pointed to

    @property
    def nbytes(self) -> int:
        return super().nbytes + sum(keys.nbytes + values.nbytes for keys, values in self._copies)

    def _see(self, rows: int) -> None:
        super()._see(rows)
        if not rows:
            return
        self.choice.make(rows)
        if self._made != self.choice.made or not self.base.away <= self._covered <= rows:
            self._pick(rows)
        self._follow(rows)
        self._describe(self._picked + rows - self._covered, rows)

    def _follow(self, rows: int) -> None:
        """Behind the rows that were picked all later ones: they stayed."""
        self._take(self._picked // EIGHT, torch.arange(self._covered // EIGHT, -(-rows // EIGHT)).expand(
            self.base.layers, self.base.kv_heads, -1))

    def _pick(self, rows: int) -> None:
        """Of the base's first `rows`: those chosen, and behind them what is elsewhere already."""
        chosen, after = self.choice.chosen, self.choice.covered
        self._made, self._covered = self.choice.made, max(after, min(rows, self.base.away))
        those = torch.arange(after // EIGHT, self._covered // EIGHT, dtype=torch.int32).expand(*chosen.shape[:2], -1)
        eights = torch.cat((chosen, those), -1)
        self._picked = eights.shape[2] * EIGHT
        self._room()
        self._take(0, eights)

    def _take(self, first: int, eights: torch.Tensor) -> None:
        """The copies' eights from `first` on become the base's eights[layers, kv_heads, m]."""
        for layer, copied in enumerate(self._copies):
            self.base.pick(layer, copied, first, eights[layer])

    def _room(self) -> None:
        base = self.base
        if not self._copies:
            capacity = -(-self.choice.of.most // BLOCK) * BLOCK
            with torch.inference_mode(False):
                self._copies = [attention.empty_cache(base.kv_heads, capacity, base.head_dim) for _ in range(base.layers)]

    def _describe(self, count: int, rows: int) -> None:
        """count: rows that are seen; rows: of the base, the last of which lie as close to one another as there."""
        eights = torch.arange(-(-count // EIGHT), dtype=torch.int32)
        padded = torch.nn.functional.pad(eights, (0, -len(eights) % EIGHTS), value=-1).view(-1, EIGHTS)
        every = padded.repeat(self.base.kv_heads, 1, 1)
        self._tail.gathered = [attention.gathered(*copied, every, rows - count) for copied in self._copies]
        self._held = [every, self._copies]
        self._tail.describe()


class CopiedDense(DenseGathering):
    """In plain torch."""

    def __init__(self, base: DenseCache, of: Gather) -> None:
        super().__init__(base, of)
        self._chosen: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        self._made = 0  # which choice they are of

    @property
    def nbytes(self) -> int:
        return super().nbytes + sum(part.nbytes for pair in self._chosen.values() for part in pair)

    def _see(self, rows: int) -> None:
        super()._see(rows)
        if self._made != self.choice.made:
            self._chosen, self._made = {}, self.choice.made

    def _pick(self, layer: int, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        count = self.choice.chosen.shape[2] * EIGHT
        if layer not in self._chosen:
            self._chosen[layer] = self.base.picked(layer, rows[:, :count])
        recent = self.base.picked(layer, rows[:, count:].clamp(self.choice.covered, self._seen - 1))
        keys, values = (torch.cat(parts, 1) for parts in zip(self._chosen[layer], recent, strict=True))
        return keys, values
