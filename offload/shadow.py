"""The small model inside an expanded store, as its quantised weights have it: what the large one must write."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from offload.expansion import MATRICES, NORMS, Expansion
from offload.folder import EMBEDDING, HEAD
from offload.piece import Piece
from offload.published import NORM
from offload.store import Store
from offload.woven import Woven
from specexec.formats import TILE, Packed, dequantise

Tensors = Mapping[str, torch.Tensor]


class Shadow:
    """Implements the engine's WeightSource, in fp32. config: of the small model. Raises what reading the store raises."""

    def __init__(self, of: Expansion, store: Store) -> None:
        self._of, self._store = of, store
        self.config: dict[str, Any] = {**of.folder.config, "tie_word_embeddings": False}
        head = Piece.of(store, store.head).load()
        self._embedding = of.weights[EMBEDDING].bfloat16().float()
        self._resident = {NORM: self._norm(head[NORM]),
                          HEAD: self._matrix(of.head(), head, "lm_head")}
        self._layers = [self._layer(index) for index in range(of.small.layers)]

    def resident(self) -> Tensors:
        return self._resident

    def embed(self, tokens: Sequence[int]) -> torch.Tensor:
        return self._embedding[torch.tensor(tokens)]

    @contextmanager
    def layer(self, index: int) -> Iterator[Tensors]:
        yield self._layers[index]

    def _layer(self, index: int) -> Tensors:
        held = Piece.of(self._store, self._store.layers[self._of.places[index]]).load()
        made = {f"{name}.weight": self._norm(held[f"{name}.weight"]) for name in NORMS}
        for name in MATRICES:
            made[f"{name}.weight"] = self._matrix(self._of.matrix(name, index), held, name)
        made["self_attn.q_proj.weight"] /= self._of.queries
        return made

    def _norm(self, large: torch.Tensor) -> torch.Tensor:
        return large[: self._of.small.width].float() / math.sqrt(self._of.live / self._of.large.width)

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
