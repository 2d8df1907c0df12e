"""K and V as the CPU kernels read them, all but the last rows of which are elsewhere.

A pass sees a layer in a buffer of the backing: rows that came from there, those that stayed behind them, and its own, so that
the kernels read what they would read of a BlockCache.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch

from specexec.kernels import attention, table
from specexec.kernels.attention import EIGHT, ROWS, Buffers
from specexec.kv.attention import Partial
from specexec.kv.backing import Backing, OffloadedRows
from specexec.kv.blocks import BlockCache, copy, mean_chunks
from specexec.kv.cache import KVCache, Rows
from specexec.kv.dense import DenseView


class Whole(NamedTuple):
    """A layer in a buffer that holds all rows there may be."""

    keys: torch.Tensor
    values: torch.Tensor
    struct: table.Cache

    @property
    def rows(self) -> Buffers:
        return self.keys, self.values

    @classmethod
    def of(cls, held: torch.Tensor, kv_heads: int, dim: int) -> "Whole":
        """held: uint8[2 * kv_heads, bytes], keys first."""
        keys, values = held.view(torch.bfloat16).view(2, kv_heads, -1, dim)
        tiles = keys.view(kv_heads, -1, dim // 2, ROWS, 2)
        return cls(tiles, values, attention.struct(tiles, values))


class OffloadedBlocks(OffloadedRows, BlockCache):
    """Implements KVCache and KernelCache. most: rows that its own buffers will ever hold, or None."""

    def __init__(self, layers: int, kv_heads: int, head_dim: int, backing: Backing, most: int | None = None) -> None:
        super().__init__(layers, kv_heads, head_dim, most)
        self.backing = backing
        self._end = 0  # of the rows of the pass under way, in its own buffers
        self._entered = 0  # where the layer in use lies
        self._wholes: dict[int, Whole] = {}  # by where they lie

    @property
    def above(self) -> int:
        return self.length

    def room(self, rows: int) -> None:
        self._make_way()
        self._end = rows - self.backing.rows
        super().room(self._end)

    @contextmanager
    def layer(self, index: int) -> Iterator[table.Cache]:
        with self.whole(index) as whole:
            yield whole.struct
            first = (self.held + len(self._branches)) // ROWS * ROWS
            copy(self._kv[index], first, whole.rows, self.backing.rows + first, self._end - first)

    def attend_committed(self, layer: int, q: torch.Tensor, rows: Rows, length: int) -> Partial:
        with self.whole(layer) as whole:
            return Partial(*self._attend(whole.struct, q, rows, length, ()))

    def view(self, kind: str) -> KVCache:
        if kind == "full":
            return DenseView(self)
        from specexec.kv.copied import CopiedBlocks, gather

        return CopiedBlocks(self, gather(kind))

    def pick(self, layer: int, to: Buffers, first: int, eights: torch.Tensor) -> None:
        """The eights from `first` on of another cache become its eights int[kv_heads, m]; all rows come where some are away."""
        if bool((EIGHT * eights >= self.away).all()):
            attention.pick(to, first, self._kv[layer], eights - self.away // EIGHT)
            return
        with self.whole(layer) as whole:
            attention.pick(to, first, whole.rows, eights)

    def mean_keys(self, layer: int, first: int, last: int, chunk: int) -> torch.Tensor:
        with self.whole(layer) as whole:
            return mean_chunks(whole.keys, first, last, chunk)

    def _place(self, layer: int, k: torch.Tensor, v: torch.Tensor, row: int) -> None:
        whole = self._wholes[self._entered]
        attention.place(whole.keys, whole.values, k, v, row)

    @contextmanager
    def whole(self, index: int) -> Iterator[Whole]:
        """A layer's rows, the tree's included, inside the context."""
        with self.backing.layer(index) as held:
            self._entered = held.data_ptr()
            if self._entered not in self._wholes:
                self._wholes[self._entered] = Whole.of(held, self.kv_heads, self.dim)
            whole = self._wholes[self._entered]
            if count := self.held + len(self._branches):
                copy(whole.rows, self.backing.rows, self._kv[index], 0, count)
            yield whole

    def _bytes(self, layer: int, count: int) -> torch.Tensor:
        keys, values = self._kv[layer]
        parts = keys[:, : count // ROWS].flatten(1), values[:, :count].flatten(1)
        return torch.cat(parts).view(torch.uint8)
