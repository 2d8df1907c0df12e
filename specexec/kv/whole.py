"""A view of all of its base's rows, for who reads the same context with other weights."""

import torch

from specexec.kernels import attention
from specexec.kernels.attention import EIGHT, EIGHTS
from specexec.kv.blocks import BlockCache, OverBlocks


class BlockView(OverBlocks[BlockCache]):
    """For the kernels, which read them where they lie."""

    def __init__(self, base: BlockCache) -> None:
        super().__init__(base, BlockCache(base.layers, base.kv_heads, base.head_dim))
        self._held: list[object] = []  # what the kernels are pointed to

    @property
    def nbytes(self) -> int:
        return self._fresh().nbytes

    def doubt(self) -> None:
        """It sees all there is."""

    def asked(self, layer: int, query: torch.Tensor) -> None:
        """Nothing is chosen."""

    def _see(self, rows: int) -> None:
        super()._see(rows)
        if rows:
            eights, kv = all_eights(rows, self.base.kv_heads), self.base.buffers()
            self._tail.gathered = [attention.gathered(*of_layer, eights) for of_layer in kv]
            self._held = [eights, kv]
            self._tail.describe()


def all_eights(rows: int, kv_heads: int) -> torch.Tensor:
    """int32[kv_heads, blocks, 8]: of the first `rows` rows, in order; -1 fills up."""
    eights = torch.arange(max(0, -(-rows // EIGHT)), dtype=torch.int32)
    return torch.nn.functional.pad(eights, (0, -len(eights) % EIGHTS), value=-1).view(-1, EIGHTS).repeat(kv_heads, 1, 1)
