"""Quantised K and V as the CPU kernels read them, all but the last groups of which are elsewhere."""

from collections.abc import Iterator
from contextlib import contextmanager
from ctypes import pointer

import torch

from specexec.kernels import attention, table
from specexec.kernels.attention import EIGHT, Buffers
from specexec.kernels.hierarchical import Groups
from specexec.kv.backing import PAGE, Backing
from specexec.kv.cache import KVCache
from specexec.kv.choice import Gather
from specexec.kv.hierarchical import HierarchicalCache
from specexec.kv.offloaded_groups import OffloadedGroups, staying


class OffloadedHierarchical(OffloadedGroups[Groups], HierarchicalCache):
    """Implements KVCache and KernelCache. backing: of one strip. rows: of the largest pass, and below it of the next one."""

    def __init__(self, layers: int, kv_heads: int, head_dim: int, bits: int, backing: Backing, rows: int) -> None:
        super().__init__(layers, kv_heads, head_dim, bits, tree=rows)
        self.backing = backing
        self.groups = [Groups.empty(kv_heads, staying(rows), head_dim, bits, backing.row) for _ in range(layers)]

    def room(self, rows: int) -> None:
        self._make_way()
        super().room(rows)

    @contextmanager
    def layer(self, index: int) -> Iterator[table.Cache]:
        with self.codes(index) as groups:
            struct, quantised = attention.struct(*self._kv[index]), groups.struct(self.made, self.bits, True)
            struct.position, struct.quantised = self.start, pointer(quantised)
            yield struct

    def pick(self, layer: int, to: Buffers, first: int, eights: torch.Tensor) -> None:
        """The eights from `first` on of another cache become its eights int[kv_heads, m]: of groups the upper nibbles."""
        here = self.start // EIGHT
        heads, at = (eights < here).nonzero(as_tuple=True)
        if len(at):
            with self.codes(layer, EIGHT * eights) as groups:
                attention.put(to, heads, first + at, groups.taken(heads, eights[heads, at].long()))
        heads, at = (eights >= here).nonzero(as_tuple=True)
        attention.put(to, heads, first + at, attention.taken(self._kv[layer], heads, eights[heads, at].long() - here))

    def _chosen(self, of: Gather) -> KVCache:
        from specexec.kv.copied import CopiedBlocks

        return CopiedBlocks(self, of)


def page_record(kv_heads: int, head_dim: int, bits: int) -> int:
    """Bytes of a group on a disk."""
    return -(-Groups.record(kv_heads, head_dim, bits) // PAGE) * PAGE
