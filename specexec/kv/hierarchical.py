"""Quantised K and V as the CPU kernels read them: a node's attention is the same, to the last bit, in every tree."""

import torch

from specexec.kernels import attention, table
from specexec.kernels.hierarchical import GROUP, Groups
from specexec.kv.blocks import BlockCache, OverBlocks
from specexec.kv.cache import KVCache
from specexec.kv.choice import Gather
from specexec.kv.kept import Form
from specexec.kv.quantised import BITS, UPPER, Quantised, UpperHalf
from specexec.kv.whole import all_eights


class HierarchicalCache(Quantised[Groups], BlockCache):
    """Implements KVCache. bits: 8 or 4. most: positions that will ever be held; tree: rows of the largest pass, and below it of
    the one that takes its place. None for either: as they come.
    """

    def __init__(
        self, layers: int, kv_heads: int, head_dim: int, bits: int, most: int | None = None, tree: int | None = None,
    ) -> None:
        super().__init__(layers, kv_heads, head_dim, None if tree is None else 2 * GROUP + tree)
        self.bits, self.positions = bits, most
        self.groups = [Groups.empty(kv_heads, 0, head_dim, bits) for _ in range(layers)]

    def describe(self) -> None:
        self.quantised = [groups.struct(self.made, self.bits, True) for groups in self.groups]
        super().describe()

    def _reserve(self, rows: int, form: Form) -> None:
        self.room(self._reserve_groups(rows, form, self.form()))
        self._changed()

    def _changed(self) -> None:
        self.describe()

    def _store(self, first: int, last: int) -> None:
        table.needed().compress(self.structs, self.layers, first, last, table.threads())

    def _mean_held(self, layer: int, first: int, last: int, chunk: int) -> torch.Tensor:
        return BlockCache.mean_keys(self, layer, first, last, chunk)

    def _upper(self) -> KVCache:
        return UpperView(self)

    def view(self, kind: str) -> KVCache:
        """full: all rows, of eight bits their upper half."""
        return self._upper() if kind == "full" else super().view(kind)

    def _chosen(self, of: Gather) -> KVCache:
        from specexec.kv.upper import UpperGathering

        return UpperGathering(self, of)


class UpperView(OverBlocks[HierarchicalCache], UpperHalf[HierarchicalCache, BlockCache]):
    """For the kernels, which read codes and rows where they lie."""

    def __init__(self, base: HierarchicalCache) -> None:
        super().__init__(base, BlockCache(base.layers, base.kv_heads, base.head_dim))
        self._held: list[object] = []  # what the kernels are pointed to

    def _see(self, rows: int) -> None:
        super()._see(rows)
        base, kv = self.base, self.base.buffers()
        if not rows or not kv:
            return
        start = min(base.start, rows // GROUP * GROUP)
        eights = all_eights(rows - base.start, base.kv_heads)
        self._tail.quantised = [groups.struct(start // GROUP, BITS[UPPER], False) for groups in base.groups]
        self._tail.gathered = [attention.gathered(*of_layer, eights, base.start) for of_layer in kv]
        self._held = [eights, kv, list(base.groups)]
        self._tail.describe()
