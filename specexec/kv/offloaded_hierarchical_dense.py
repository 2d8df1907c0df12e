"""Quantised K and V in plain torch, all but the last groups of which are elsewhere: in this machine's memory, for a device."""

import torch

from specexec.kernels.row_groups import RowGroups
from specexec.kv.backing import Backing
from specexec.kv.cache import KVCache, Rows
from specexec.kv.choice import Gather
from specexec.kv.hierarchical_dense import HierarchicalDense
from specexec.kv.offloaded_groups import OffloadedGroups, staying


class OffloadedHierarchicalDense(OffloadedGroups[RowGroups], HierarchicalDense):
    """Implements KVCache. backing: of one strip. tree: rows of the largest pass, and below it of the next one."""

    def __init__(
        self, layers: int, kv_heads: int, head_dim: int, bits: int, device: torch.device, backing: Backing, tree: int,
    ) -> None:
        super().__init__(layers, kv_heads, head_dim, bits, device, tree=tree)
        self.backing = backing
        self.groups = [RowGroups.empty(kv_heads, staying(tree), head_dim, bits, device, together=True) for _ in range(layers)]

    def attend(self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, rows: Rows) -> torch.Tensor:
        self._make_way()
        return super().attend(layer, q, k, v, rows)

    def _chosen(self, of: Gather) -> KVCache:
        from specexec.kv.copied import CopiedDense

        return CopiedDense(self, of)
