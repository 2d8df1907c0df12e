"""Quantised K and V for the torch engine, on any device: Triton's kernels read codes on CUDA, plain torch elsewhere."""

from collections.abc import Iterator, Sequence

import torch

from specexec.kernels import row_groups
from specexec.kernels.hierarchical import GROUP
from specexec.kernels.row_groups import RowGroups
from specexec.kv.attention import Partial, attend_part, merge
from specexec.kv.cache import KVCache, Rows
from specexec.kv.choice import Gather
from specexec.kv.dense import DenseCache
from specexec.kv.ending import Ending, ending
from specexec.kv.kept import Form
from specexec.kv.quantised import BITS, UPPER, Quantised, UpperHalf
from specexec.kv.retrieval import DenseGathering


class HierarchicalDense(Quantised[RowGroups], DenseCache):
    """Implements KVCache. bits: 8 or 4. most: positions that will ever be held, or None. tree: rows of the largest pass, and
    below it of the one that takes its place, where all that `most` and `tree` take is to be taken at once.
    """

    def __init__(
        self, layers: int, kv_heads: int, head_dim: int, bits: int, device: torch.device, most: int | None = None,
        tree: int | None = None,
    ) -> None:
        super().__init__(layers, rows=2 * GROUP + (tree or 0))
        self.bits, self.positions, self.heads, self.head_dim = bits, most, kv_heads, head_dim
        at_once = most // GROUP if most is not None and tree is not None else 0
        self.groups = [RowGroups.empty(kv_heads, at_once, head_dim, bits, device) for _ in range(layers)]
        self.device = self.groups[0].upper.device
        self._last: tuple[Rows, Ending] | None = None

    @property
    def kv_heads(self) -> int:
        return self.heads

    def admit(self, tokens: Sequence[int], parents: Sequence[int]) -> None:
        super().admit(tokens, parents)
        self._last = None

    def attend(self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, rows: Rows) -> torch.Tensor:
        if rows.root is not None:
            self.asked(layer, q[:, rows.root])
        keys, values = (part[:, self.made * GROUP - self.start :] for part in self._write(layer, k, v, rows))
        stored = [self._over_groups(layer, q, rows, self.made, self.bits)] if self.made else []
        return merge(*stored, *self._ending(rows).attend(q, keys, values, self.bits))

    def attend_upper(self, layer: int, q: torch.Tensor, rows: Rows, length: int) -> Iterator[Partial]:
        """Over its first `length` committed rows, the oldest by their upper nibbles, those in the buffer as they came."""
        start, kv = min(self.start, length // GROUP * GROUP), self._kv[layer]
        if start:
            yield self._over_groups(layer, q, rows, start // GROUP, BITS[UPPER])
        if length > start:
            assert kv is not None
            bias = rows.prefix_bias(start, length - start) if rows.windowed else rows.bias[:, :0]
            yield attend_part(q, kv[0, :, : length - start], kv[1, :, : length - start], bias)

    def picked(self, layer: int, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        kept = super().picked(layer, (rows - self.start).clamp(min=0))
        if not self.start:
            return kept
        old = (rows.to(self.device) < self.start).unsqueeze(2)
        with self.codes(layer, rows) as groups:
            read = groups.picked(rows.to(self.device).clamp(max=self.start - 1))
        keys, values = (torch.where(old, of.to(own.dtype), own) for of, own in zip(read, kept, strict=True))
        return keys, values

    def _reserve(self, rows: int, form: Form) -> None:
        own: Form = {"layers": self.layers, "kv_heads": self.kv_heads, "head_dim": self.head_dim, "device": str(self.device)}
        super()._reserve(self._reserve_groups(rows, form, {**form, **own}), form)

    def _ending(self, rows: Rows) -> Ending:
        """The same for all layers of a pass."""
        if self._last is None or self._last[0] is not rows:
            self._last = rows, ending(rows, self.length, self.made)
        return self._last[1]

    def _over_groups(self, layer: int, q: torch.Tensor, rows: Rows, count: int, bits: int) -> Partial:
        first = rows.first_visible if rows.windowed else None
        with self.codes(layer) as groups:
            return row_groups.attend(q, groups, count, bits, first)

    def _changed(self) -> None:
        """Nobody is pointed to them."""

    def _store(self, first: int, last: int) -> None:
        of = slice(first * GROUP - self.start, last * GROUP - self.start)
        for groups, kv in zip(self.groups, self._kv, strict=True):
            assert kv is not None
            groups.put(first, kv[0, :, of], kv[1, :, of])

    def _mean_held(self, layer: int, first: int, last: int, chunk: int) -> torch.Tensor:
        return DenseCache.mean_keys(self, layer, first, last, chunk)

    def _upper(self) -> KVCache:
        return UpperDense(self)

    def _chosen(self, of: Gather) -> KVCache:
        return DenseGathering(self, of)


class UpperDense(UpperHalf[HierarchicalDense, DenseCache]):
    """In torch."""

    def __init__(self, base: HierarchicalDense) -> None:
        super().__init__(base, DenseCache(base.layers))

    def attend(self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, rows: Rows) -> torch.Tensor:
        tail = self._fresh()
        if not self._seen:
            return tail.attend(layer, q, k, v, rows)
        return merge(*self.base.attend_upper(layer, q, rows, self._seen), tail.attend_part(layer, q, k, v, rows))
