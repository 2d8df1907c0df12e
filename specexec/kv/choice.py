"""Which of a cache's committed rows a view sees: chunks whose mean keys fit the last query.   TriForce, Sun et al. 2024

Chosen by layer and KV head, for the sum of the head's group of queries. The first rows (sinks) and the recent ones are
always in.
"""

from dataclasses import dataclass

import torch

from specexec.kernels.attention import EIGHT, EIGHTS
from specexec.kv.view import Base


@dataclass(frozen=True)
class Gather:
    """Rows of the base, all multiples of `chunk`, a multiple of eight.

    rows: in sight when the choice is made. first, recent: of them, always. stride: that may be added before it is made anew.
    scored: False for the first and the recent alone, a window.
    """

    rows: int = 4096
    chunk: int = 16
    first: int = 16
    recent: int = 64
    stride: int = 128
    scored: bool = True

    def __post_init__(self) -> None:
        if self.chunk % EIGHT or any(size % self.chunk for size in (self.rows, self.first, self.recent)):
            raise ValueError("chunks are whole eights of rows, and all else whole chunks")
        if self.rows < self.first + self.recent:
            raise ValueError(f"{self.rows} rows do not hold the first {self.first} and the recent {self.recent}")

    @property
    def most(self) -> int:
        """Rows that are ever in sight."""
        return self.rows + self.stride + 2 * self.chunk


class Means:
    """Mean keys of a base's whole chunks, one layer's: found once, as it commits."""

    def __init__(self, base: Base, layer: int, chunk: int) -> None:
        self.base, self.layer, self.chunk = base, layer, chunk
        self._found = torch.empty(0)  # [kv_heads, room, dim]
        self._count = 0

    @property
    def nbytes(self) -> int:
        return self._found.nbytes

    def upto(self, count: int) -> torch.Tensor:
        """fp32[kv_heads, count, dim]"""
        if count > self._count:
            new = self.base.mean_keys(self.layer, self._count, count, self.chunk)
            self._room(new, count)
            self._found[:, self._count : count] = new
            self._count = count
        return self._found[:, :count]

    def forget(self, count: int) -> None:
        """The base has kept no more than `count` chunks."""
        self._count = min(self._count, count)

    def _room(self, like: torch.Tensor, count: int) -> None:
        if self._found.dim() == 1 or self._found.shape[1] < count:
            larger = like.new_empty(like.shape[0], max(count, self._count * 5 // 4), like.shape[2])
            if self._count:
                larger[:, : self._count] = self._found[:, : self._count]
            self._found = larger


class Choice:
    """The eights of rows that each layer and KV head sees."""

    def __init__(self, base: Base, of: Gather) -> None:
        self.base, self.of = base, of
        self.made = 0  # how often
        self._means = [Means(base, layer, of.chunk) for layer in range(base.layers)]
        self._chosen = torch.empty(0, dtype=torch.int32)  # [layers, kv_heads, eights]
        self._covered = 0  # rows among which they were chosen
        self._stale = True

    @property
    def nbytes(self) -> int:
        return self._chosen.nbytes + sum(means.nbytes for means in self._means)

    def doubt(self) -> None:
        """It is made anew when the base moves next."""
        self._stale = True

    def moved(self, kept: int) -> None:
        """The base has moved; `kept` of the rows it had are still the same."""
        self._stale |= kept < self._covered
        for means in self._means:
            means.forget(kept // self.of.chunk)

    @property
    def chosen(self) -> torch.Tensor:
        """int32[layers, kv_heads, eights]: of the first `covered` rows, in order; all later ones are seen."""
        return self._chosen

    @property
    def covered(self) -> int:
        return self._covered

    def make(self, length: int) -> None:
        """Among the base's first `length` rows, where that is due."""
        late = length - self._covered > self.of.recent + self.of.stride + self.of.chunk
        if self._stale or late or length < self._covered:
            self._choose(length)

    def eights(self, length: int) -> torch.Tensor:
        """int32[layers, kv_heads, blocks, 8]: of the base's first `length` rows, in order; -1 fills up."""
        self.make(length)
        new = torch.arange(self._covered // EIGHT, -(-length // EIGHT), dtype=torch.int32)
        shape = self._chosen.shape[:2]
        empty = torch.full((-(len(new) + self._chosen.shape[2]) % EIGHTS,), -1, dtype=torch.int32)
        parts = (self._chosen, new.expand(*shape, -1), empty.expand(*shape, -1))
        return torch.cat(parts, -1).view(*shape, -1, EIGHTS)

    def _choose(self, length: int) -> None:
        of = self.of
        chunks, first = length // of.chunk, of.first // of.chunk
        recent = max(first, chunks - of.recent // of.chunk)  # the first of them
        take = (of.rows - of.first - of.recent) // of.chunk
        if recent - first <= take:
            chosen = torch.arange(min(recent, chunks)).expand(self.base.layers, self.base.kv_heads, -1)
        else:
            found = [self._best(layer, first, recent, take) for layer in range(self.base.layers)]
            sinks = torch.arange(first).expand(self.base.layers, self.base.kv_heads, -1)
            chosen = torch.cat((sinks, torch.stack(found)), -1)
        each = of.chunk // EIGHT
        eights = chosen[..., None] * each + torch.arange(each)
        self._chosen, self._covered = eights.flatten(2).int(), min(recent, chunks) * of.chunk
        self._stale = of.scored and not self.base.queries  # nobody has asked yet
        self.made += 1

    def _best(self, layer: int, first: int, last: int, take: int) -> torch.Tensor:
        """int64[kv_heads, take] of chunks first..last - 1, in order; the last ones where nobody has asked yet."""
        query = (self.base.queries or {}).get(layer)
        if query is None or not self.of.scored:
            return torch.arange(last - take, last).expand(self.base.kv_heads, -1)
        means = self._means[layer].upto(last)
        dim = min(means.shape[2], query.shape[-1])  # either may be filled with zeros
        group = query.view(self.base.kv_heads, -1, query.shape[-1]).sum(1)[:, :dim, None]
        scores = (means[:, first:, :dim] @ group).squeeze(2)
        return scores.topk(take).indices.sort().values.cpu() + first
