"""K and V as they came, all but the last rows of which are elsewhere: in this machine's memory, where a device computes.

A pass sees a layer in a buffer of the backing, where the rows that stayed stand behind those that came.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from specexec.kv.attention import Partial, attend, attend_part
from specexec.kv.backing import Backing, OffloadedRows
from specexec.kv.cache import KVCache, Rows
from specexec.kv.dense import DenseCache, DenseView


class OffloadedDense(OffloadedRows, DenseCache):
    """Implements KVCache. rows: that its own buffers begin with; a cache that keeps no more never outgrows them."""

    def __init__(self, layers: int, backing: Backing, rows: int) -> None:
        super().__init__(layers, rows=rows)
        self.backing = backing

    def attend(self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, rows: Rows) -> torch.Tensor:
        if rows.root is not None:
            self.asked(layer, q[:, rows.root])
        self._make_way()
        self._write(layer, k, v, rows)
        with self._whole(layer, self.length + rows.visible.shape[1]) as (keys, values):
            return attend(q, keys, values, self._bias(rows))

    def attend_committed(self, layer: int, q: torch.Tensor, rows: Rows, length: int) -> Partial:
        bias = rows.prefix_bias(self.start, length) if rows.windowed else rows.bias[:, :0]
        with self._whole(layer, length) as (keys, values):
            return attend_part(q, keys, values, bias)

    def view(self, kind: str) -> KVCache:
        if kind == "full":
            return DenseView(self)
        from specexec.kv.copied import CopiedDense, gather

        return CopiedDense(self, gather(kind))

    def mean_keys(self, layer: int, first: int, last: int, chunk: int) -> torch.Tensor:
        with self._whole(layer, last * chunk) as (keys, _):
            return keys[:, first * chunk :].reshape(len(keys), last - first, chunk, -1).float().mean(2)

    def picked(self, layer: int, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Of rows that all have stayed where they are; of others the whole layer comes."""
        if not rows.numel() or int(rows.min()) >= self.backing.rows:
            return super().picked(layer, rows - self.backing.rows)
        with self._whole(layer, self.length) as (keys, values):
            heads, rows = torch.arange(len(rows), device=keys.device)[:, None], rows.to(keys.device)
            return keys[heads, rows], values[heads, rows]

    @contextmanager
    def _whole(self, layer: int, end: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """(k, v)[kv_heads, end, dim] of a layer, inside the context."""
        own, away = self._kv[layer], self.backing.rows
        assert own is not None
        with self.backing.layer(layer) as held:
            kv = held.view(own.dtype).view(2, own.shape[1], -1, own.shape[3])
            kv[:, :, away:end] = own[:, :, : end - away]
            yield kv[0, :, :end], kv[1, :, :end]

    def _bias(self, rows: Rows) -> torch.Tensor:
        if not rows.windowed:
            return rows.bias
        return torch.cat((rows.prefix_bias(self.start, self.length), rows.bias), 1)

    def _bytes(self, layer: int, count: int) -> torch.Tensor:
        own = self._kv[layer]
        assert own is not None
        return own[:, :, :count].flatten(0, 1).flatten(1).contiguous().view(torch.uint8)
