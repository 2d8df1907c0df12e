"""The small model inside an expanded store, some of its tensors taken out: a WeightSource in memory."""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from offload.expansion import Expansion
from offload.folder import EMBEDDING
from offload.piece import Piece
from offload.published import NORM
from offload.store import Store

Tensors = Mapping[str, torch.Tensor]


class Inside(ABC):
    """Implements the engine's WeightSource. config: of that model; copies: of the small stream, side by side in its own.

    Raises what reading the store raises.
    """

    def __init__(self, of: Expansion, store: Store, config: dict[str, Any], copies: int) -> None:
        self._of, self.config = of, config
        self._embedding = of.weights[EMBEDDING].bfloat16().float().repeat(1, copies)
        head = Piece.of(store, store.head).load()
        self._resident = {NORM: self._norm(head[NORM]), **self._head(head)}
        self._layers = [self._layer(index, Piece.of(store, store.layers[at]).load()) for index, at in enumerate(of.places)]

    @abstractmethod
    def _head(self, held: Tensors) -> Tensors:
        """lm_head, of what its file holds."""

    @abstractmethod
    def _layer(self, index: int, held: Tensors) -> Tensors:
        """The small model's layer, of what the large one's file holds."""

    def resident(self) -> Tensors:
        return self._resident

    def embed(self, tokens: Sequence[int]) -> torch.Tensor:
        return self._embedding[torch.tensor(tokens)]

    @contextmanager
    def layer(self, index: int) -> Iterator[Tensors]:
        yield self._layers[index]

    def _norm(self, large: torch.Tensor) -> torch.Tensor:
        """As wide as the embedding."""
        return large[: self._embedding.shape[1]].float() / math.sqrt(self._of.live / self._of.large.width)
