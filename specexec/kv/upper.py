"""A view of chosen rows of a quantised cache: of groups that have left the buffer the upper nibbles, in tiles of 16 rows."""

import torch
from torch.nn.functional import pad

from specexec.kernels import attention
from specexec.kernels.attention import EIGHT, EIGHTS, ROWS
from specexec.kernels.hierarchical import GROUP
from specexec.kv.blocks import BlockCache, OverBlocks
from specexec.kv.choice import Gather
from specexec.kv.hierarchical import HierarchicalCache
from specexec.kv.quantised import BITS, UPPER
from specexec.kv.retrieval import Gathering


class UpperGathering(OverBlocks[HierarchicalCache], Gathering[HierarchicalCache, BlockCache]):
    """TriForce's choice (Sun et al. 2024) of what QuantSpec's draft reads (Tiwari et al. 2025): both savings at once."""

    def __init__(self, base: HierarchicalCache, of: Gather) -> None:
        if of.chunk % ROWS or GROUP % of.chunk:
            raise ValueError(f"chunks of {of.chunk} rows are no whole tiles of a group")
        super().__init__(base, BlockCache(base.layers, base.kv_heads, base.head_dim), of)
        self._held: list[object] = []  # what the kernels are pointed to

    def _see(self, rows: int) -> None:
        super()._see(rows)
        base, kv = self.base, self.base.buffers()
        if not rows or not kv:
            return
        start, eights = min(base.start, rows // GROUP * GROUP), self.choice.eights(rows).flatten(2)
        tiles, later = _tiles(eights, start), _later(eights, base.start)
        self._tail.quantised = [groups.struct(start // GROUP, BITS[UPPER], False, tiles[layer])
                                for layer, groups in enumerate(base.groups)]
        self._tail.gathered = [attention.gathered(*of_layer, later[layer], base.start) for layer, of_layer in enumerate(kv)]
        self._held = [tiles, later, kv, list(base.groups)]
        self._tail.describe()


def _tiles(eights: torch.Tensor, end: int) -> torch.Tensor:
    """int32[layers, kv_heads, chosen]: of eights[layers, kv_heads, m] in order, the pairs before row `end`; -1 fills up."""
    pairs = eights[..., ::2]
    among = (pairs >= 0) & (pairs < end // EIGHT)
    most = int(among.sum(-1).max())
    return torch.where(among, pairs // 2, -1)[..., :most].contiguous()


def _later(eights: torch.Tensor, start: int) -> torch.Tensor:
    """int32[layers, kv_heads, blocks, 8]: those from row `start` on, counted from there."""
    among = eights >= start // EIGHT
    columns = among.any(0).any(0).nonzero().flatten().tolist()
    found = torch.where(among, eights - start // EIGHT, -1)[..., min(columns, default=0) : max(columns, default=-1) + 1]
    return pad(found, (0, -found.shape[2] % EIGHTS), value=-1).contiguous().view(*eights.shape[:2], -1, EIGHTS)
