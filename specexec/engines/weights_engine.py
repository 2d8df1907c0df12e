"""What our own engines share: weights that come from a WeightSource, over any KV cache of ours."""

import copy
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Self

import torch

from specexec.engines.tree_engine import TreeEngine
from specexec.kv.cache import KVCache
from specexec.roles import Limits, Reader, WeightSource
from specexec.tree import DraftTree

WINDOW_TREE = 256  # over a window: what a small model reads in one pass adds to the distances it sees


class WeightsEngine(TreeEngine):
    """Implements Target but for the arithmetic, which asks the cache for attention."""

    cache: KVCache

    def __init__(
        self, source: WeightSource, cache: KVCache, limits: Limits, rounding: float, device: torch.device
    ) -> None:
        super().__init__(cache, limits, rounding, device)
        self.source = source

    @property
    @abstractmethod
    def arithmetic(self) -> str:
        """What its numbers depend on besides the weights and their format, to the last bit."""

    @abstractmethod
    def _hidden(self, tokens: Sequence[int], parents: Sequence[int], root: int | None) -> torch.Tensor:
        """Last hidden states [n, width]. parents: of all rows of the cache's tree, whose last n these tokens become.

        root: which of the n is the tree's first, if any.
        """

    @torch.inference_mode()
    def settle(self) -> None:
        super().settle()

    @torch.inference_mode()
    def forward(self, tree: DraftTree, reader: Reader, first: int = 0) -> None:
        super().forward(tree, reader, first)

    @torch.inference_mode()
    def extend(self, token: int, pick: Callable[[torch.Tensor], int | None], seconds: float) -> None:
        super().extend(token, pick, seconds)

    def _states(self, tokens: Sequence[int], parents: Sequence[int], root: int | None) -> torch.Tensor:
        return self._hidden(tokens, parents, root)[len(tokens) if root is None else root :]

    def over(self, cache: KVCache, source: WeightSource | None = None) -> Self:
        """Another engine of the same weights, which are not copied, or of like ones. The two cannot run at the same time."""
        other = copy.copy(self)
        other.cache, other.passes, other._tokens, other.source = cache, 0, [], source or self.source
        return other

    @abstractmethod
    def keeping(self, kv: str) -> Self:
        """Another one, over an empty cache of keys and values in that format: bf16, int8 or int4."""

    def forgetting(self, context: int) -> Self:
        """Another one, over a cache that keeps a window of a context that may be longer than the model has learnt."""
        other = self.over(self._window())
        other._limits = replace(self.limits, context=context, tree=min(self.limits.tree, WINDOW_TREE), chunk=0)
        return other

    @abstractmethod
    def _window(self) -> KVCache:
        """A cache of a window, of this model."""

    @property
    def waited(self) -> float:
        return float(getattr(self.source, "waited", 0.0)) + float(getattr(self.cache, "waited", 0.0))
