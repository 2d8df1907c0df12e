"""Views that see a part of their base's rows, so that a pass costs the same however long the context is.

TriForce's retrieval cache (Sun et al. 2024) chooses that part by the last query; a window takes the first and the recent rows
(StreamingLLM, Xiao et al. 2024), at their true positions: a view is read by the model that knows them.
"""

import torch

from specexec.errors import WrongUsage
from specexec.kernels import attention
from specexec.kernels.attention import EIGHT
from specexec.kv.attention import attend_part, merge
from specexec.kv.blocks import BlockCache, OverBlocks
from specexec.kv.cache import Rows
from specexec.kv.choice import Choice, Gather
from specexec.kv.dense import DenseCache
from specexec.kv.view import Own, Seen, View

KINDS = {"retrieval": Gather(), "window": Gather(scored=False)}


def gather(kind: str) -> Gather:
    """What a view of this kind sees. Raises WrongUsage where there is none."""
    if kind not in KINDS:
        raise WrongUsage(f'a KV cache has no view "{kind}".', hint=f"--draft-kv {', '.join(KINDS)}, or full")
    return KINDS[kind]


class Gathering(View[Seen, Own]):
    """A view of chosen rows, but for attention. Its base's next passes keep their queries for it."""

    def __init__(self, base: Seen, tail: Own, of: Gather) -> None:
        super().__init__(base, tail)
        self.choice = Choice(base, of)
        base.queries = base.queries or {}

    @property
    def nbytes(self) -> int:
        return self._fresh().nbytes + self.choice.nbytes

    def doubt(self) -> None:
        """What it sees is chosen anew when the base moves next."""
        self.choice.doubt()

    def asked(self, layer: int, query: torch.Tensor) -> None:
        """A query that saw a part of the rows chooses none."""

    def _moved(self, kept: int) -> None:
        self.choice.moved(kept)


class BlockGathering(OverBlocks[BlockCache], Gathering[BlockCache, BlockCache]):
    """For the kernels, which read chosen rows where they lie."""

    def __init__(self, base: BlockCache, of: Gather) -> None:
        super().__init__(base, BlockCache(base.layers, base.kv_heads, base.head_dim), of)
        self._held: list[object] = []  # what the kernels are pointed to

    def _see(self, rows: int) -> None:
        super()._see(rows)
        if rows:
            eights, kv = self.choice.eights(rows), self.base.buffers()
            self._tail.gathered = [attention.gathered(*kv[layer], eights[layer]) for layer in range(len(kv))]
            self._held = [eights, kv]
            self._tail.describe()


class DenseGathering(Gathering[DenseCache, DenseCache]):
    """In plain torch: chosen rows are copied, a layer's when it is first attended after a choice."""

    def __init__(self, base: DenseCache, of: Gather) -> None:
        super().__init__(base, DenseCache(base.layers), of)
        self._rows = torch.empty(0, dtype=torch.int64)  # [layers, kv_heads, m], or -1
        self._picked: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    @property
    def nbytes(self) -> int:
        return super().nbytes + sum(part.nbytes for pair in self._picked.values() for part in pair)

    def attend(self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, rows: Rows) -> torch.Tensor:
        tail = self._fresh()
        if not self._seen:
            return tail.attend(layer, q, k, v, rows)
        at = self._rows[layer].to(q.device)
        if layer not in self._picked:
            self._picked[layer] = self._pick(layer, at)
        hidden = (at[:, None] < rows.first_visible[:, None]) | (at[:, None] < 0) | (at[:, None] >= self._seen)
        bias = torch.zeros(hidden.shape, device=q.device).masked_fill_(hidden, -torch.inf)[:, None]
        return merge(attend_part(q, *self._picked[layer], bias), tail.attend_part(layer, q, k, v, rows))

    def _pick(self, layer: int, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(k, v)[kv_heads, m, dim] of the base's rows int64[kv_heads, m], or of any where those are negative."""
        return self.base.picked(layer, rows.clamp(min=0))

    def _see(self, rows: int) -> None:
        super()._see(rows)
        self._picked = {}
        if rows:
            eights = self.choice.eights(rows).long().flatten(2)
            each = EIGHT * eights[..., None] + torch.arange(EIGHT)
            self._rows = each.masked_fill(eights[..., None] < 0, -1).flatten(2)
