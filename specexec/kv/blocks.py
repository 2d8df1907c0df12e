"""K and V in bf16 as the CPU kernels read them: a node's attention is the same, to the last bit, in every tree."""

import ctypes
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from ctypes import pointer
from typing import Any, Protocol, runtime_checkable

import torch

from specexec.kernels import attention, table
from specexec.kernels.attention import Buffers
from specexec.kv.attention import Partial
from specexec.kv.cache import KVCache, Rows
from specexec.kv.committed import Committed
from specexec.kv.kept import Form, as_bytes
from specexec.kv.view import Seen, View

FIRST_ROWS = 256
MEANT_ROWS = 4096  # whose means are found at once


@runtime_checkable
class KernelCache(KVCache, Protocol):
    """A cache whose rows the kernels write and read."""

    @property
    def above(self) -> int:
        """Committed rows that lie in a layer's own buffers, before the tree's."""

    def room(self, rows: int) -> None:
        """Makes room for so many rows in those: before a pass."""

    def layer(self, index: int) -> AbstractContextManager[table.Cache]:
        """A layer, in whose buffers a pass writes its rows and sees all before them, inside the context."""

    def asked(self, layer: int, query: torch.Tensor) -> None:
        """query[heads, dim]: of the first node that a pass evaluates."""


class BlockCache(Committed):
    """Implements KVCache for fp32 q, k and v. Its rows are bf16, every layer's in buffers of its own.

    most: rows that will ever be asked for, or None; no more is allocated.
    """

    def __init__(self, layers: int, kv_heads: int, head_dim: int, most: int | None = None) -> None:
        super().__init__()
        self.gathered: list[table.Gathered] = []  # of each layer: what is seen before these rows, if anything,
        self.quantised: list[table.Quantised] = []  # and before those
        self.most = most
        self.layers, self.kv_heads, self.head_dim = layers, kv_heads, head_dim
        self.dim = attention.padded(head_dim)
        self._capacity = 0
        self._kv: list[Buffers] = []
        self.structs: Any = (table.Cache * layers)()  # of each layer, as the kernels take them

    @property
    def nbytes(self) -> int:
        return sum(keys.nbytes + values.nbytes for keys, values in self._kv)

    def room(self, rows: int) -> None:
        """Makes room for `rows` rows in all, committed ones and the tree's."""
        if rows <= self._capacity:
            return
        wanted = max(FIRST_ROWS, 2 * self._capacity)
        capacity = -(-max(rows, min(wanted, self.most or wanted)) // 64) * 64
        for layer in range(self.layers):
            keys, values = attention.empty_cache(self.kv_heads, capacity, self.head_dim)
            if self._capacity:
                old_keys, old_values = self._kv[layer]
                keys[:, : old_keys.shape[1]], values[:, : self._capacity] = old_keys, old_values
                self._kv[layer] = keys, values
            else:
                self._kv.append((keys, values))
        self._capacity = capacity
        self.describe()

    def describe(self) -> None:
        """What the kernels are told of every layer."""
        for layer, kv in enumerate(self._kv):
            struct = attention.struct(*kv)
            struct.position = self.start
            if self.gathered:
                struct.gathered = pointer(self.gathered[layer])
            if self.quantised:
                struct.quantised = pointer(self.quantised[layer])
            self.structs[layer] = struct

    def reset(self, start: int) -> None:
        super().reset(start)
        self.gathered, self.quantised = [], []
        self.describe()

    @property
    def above(self) -> int:
        return self.held

    def layer(self, index: int) -> AbstractContextManager[table.Cache]:
        return nullcontext(self.structs[index])

    def attend(self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, rows: Rows) -> torch.Tensor:
        if rows.root is not None:
            self.asked(layer, q[:, rows.root])
        end = self.above + len(rows.parents)
        with torch.inference_mode(False):
            self.room(end)
        with self.layer(layer) as struct:
            self._place(layer, k, v, end - k.shape[1])
            return self._attend(struct, q, rows, self.above, rows.parents)[0]

    def attend_committed(self, layer: int, q: torch.Tensor, rows: Rows, length: int) -> Partial:
        """Attention over the first `length` committed rows alone."""
        return Partial(*self._attend(self.structs[layer], q, rows, length, ()))

    def _place(self, layer: int, k: torch.Tensor, v: torch.Tensor, row: int) -> None:
        attention.place(*self._kv[layer], k, v, row)

    def _attend(
        self, struct: table.Cache, q: torch.Tensor, rows: Rows, length: int, parents: Sequence[int]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        asked = torch.nn.functional.pad(q.float().transpose(0, 1), (0, self.dim - self.head_dim)).contiguous()
        out = torch.zeros(*asked.shape[:2], self.head_dim)
        sums = torch.full(asked.shape[:2], -torch.inf)
        attention.attend(asked, struct, length, torch.tensor(parents, dtype=torch.int32),
                         rows.first_visible.int(), out, sums)
        out.masked_fill_((sums == -torch.inf).unsqueeze(-1), 0)  # of queries that see none of them
        return out.transpose(0, 1).to(q.dtype), sums.T

    def view(self, kind: str) -> KVCache:
        from specexec.kv.retrieval import BlockGathering, gather
        from specexec.kv.whole import BlockView

        if kind == "full":
            return BlockView(self)
        return BlockGathering(self, gather(kind))

    def mean_keys(self, layer: int, first: int, last: int, chunk: int) -> torch.Tensor:
        return mean_chunks(self._kv[layer][0], first, last, chunk)

    def buffers(self) -> list[Buffers]:
        """Each layer's; they stay what they are where the cache outgrows them."""
        return list(self._kv)

    @property
    def kind(self) -> str:
        return "bf16"

    def form(self) -> Form:
        return {"layers": self.layers, "kv_heads": self.kv_heads, "head_dim": self.head_dim}

    def pieces(self) -> Iterator[torch.Tensor]:
        tiles = -(-self.held // attention.ROWS)
        for keys, values in self._kv:
            for head in range(self.kv_heads):
                yield as_bytes(keys[head, :tiles])
                yield as_bytes(values[head, : self.held])

    def _reserve(self, rows: int, form: Form) -> None:
        if form != self.form():
            raise ValueError(f"{dict(form)} is no form of this cache")
        self.room(rows)

    def _move(self, to: int, rows: Sequence[int]) -> None:
        places = torch.tensor(rows)
        table.needed().move(ctypes.cast(self.structs, ctypes.POINTER(table.Cache)), self.layers, to,
                            places.data_ptr(), len(rows))


class OverBlocks(View[Seen, BlockCache]):
    """A view's part of KernelCache, all of which is its tail's."""

    @property
    def above(self) -> int:
        return self._fresh().above

    def layer(self, index: int) -> AbstractContextManager[table.Cache]:
        return self._fresh().layer(index)

    def room(self, rows: int) -> None:
        self._fresh().room(rows)

    def attend(self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, rows: Rows) -> torch.Tensor:
        return self._fresh().attend(layer, q, k, v, rows)


def mean_chunks(keys: torch.Tensor, first: int, last: int, chunk: int) -> torch.Tensor:
    """fp32[kv_heads, last - first, dim]: of chunks of a cache's keys, some at a time."""
    each, steps = chunk // attention.EIGHT, range(first, last, max(1, MEANT_ROWS // chunk))
    found = [attention.mean_keys(keys, at * each, min(last, at + steps.step) * each) for at in steps]
    return torch.cat(found, 1).view(len(keys), last - first, each, -1).mean(2)


@torch.inference_mode()
def copy(to: Buffers, at: int, of: Buffers, start: int, count: int) -> None:
    """`count` rows of a layer, from `start` on, in place of those from `at` on. Both begin tiles; tiles are copied whole."""
    tiles, here, there = -(-count // attention.ROWS), at // attention.ROWS, start // attention.ROWS
    to[0][:, here : here + tiles] = of[0][:, there : there + tiles]
    to[1][:, at : at + count] = of[1][:, start : start + count]
