"""The small model inside an expanded store, as its quantised weights have it: what the large one must write."""

import torch

from offload.expansion import MATRICES, NORMS, Expansion
from offload.folder import HEAD
from offload.inside import Inside, Tensors
from offload.store import Store
from offload.woven import Woven
from specexec.formats import Packed, dequantise
from specexec.kinds import TILE


class Shadow(Inside):
    """In fp32."""

    def __init__(self, of: Expansion, store: Store) -> None:
        self._store = store
        super().__init__(of, store, {**of.folder.config, "tie_word_embeddings": False}, copies=1)

    def _head(self, held: Tensors) -> Tensors:
        return {HEAD: self._matrix(self._of.head(), held, "lm_head")}

    def _layer(self, index: int, held: Tensors) -> Tensors:
        made = {f"{name}.weight": self._norm(held[f"{name}.weight"]) for name in NORMS}
        for name in MATRICES:
            made[f"{name}.weight"] = self._matrix(self._of.matrix(name, index), held, name)
        made["self_attn.q_proj.weight"] /= self._of.queries
        return made

    def _matrix(self, woven: Woven, held: Tensors, name: str) -> torch.Tensor:
        codes, scales = held[f"{name}.weight"], held.get(f"{name}.scales")
        if scales is None:
            return woven.taken_out(codes).float()
        kind, layout, lines = ("nf4" if codes.dtype == torch.uint8 else "int8"), str(self._store.layout), 1
        if layout == "tile16":
            lines = TILE
        rows = woven.rows_at
        kept, at = torch.unique(rows // lines, return_inverse=True)  # of the tiles, only those that hold any
        part = Packed(kind, layout, len(kept) * lines, woven.shape[1], codes[kept], scales[kept])
        return dequantise(part)[at * lines + rows % lines][:, woven.columns]
