"""A pair of tables: exact laws for tests of the rules."""

from collections.abc import Sequence

import torch

from specexec.roles import Limits, Reader
from specexec.tree import DraftTree
from specexec.vocabulary import Vocabulary
from tests.benchmarks.pair import Pair

TOKENS, POSITIONS = 4, 12


class Toy:
    """Implements Engine: a law for every position and last token."""

    def __init__(self, logits: torch.Tensor) -> None:
        self.logits = logits  # [positions, V, V]
        self._start = 0

    @property
    def limits(self) -> Limits:
        return Limits(len(self.logits), 2048, TOKENS)

    waited = 0.0

    @property
    def missing(self) -> int:
        return 0

    def sync(self, tokens: Sequence[int]) -> None:
        self._start = len(tokens)

    def forward(self, tree: DraftTree, reader: Reader, first: int = 0) -> None:
        at = [(self._start + depth, token) for depth, token in zip(tree.depth, tree.tokens, strict=True)]
        reader(first, torch.stack([self.logits[place] for place in at[first:]]))


def toys(noise: float) -> Pair:
    """A draft whose logits are the target's and Gaussian noise of that deviation."""
    random = torch.Generator().manual_seed(1)
    target = 1.5 * torch.randn(POSITIONS, TOKENS, TOKENS, generator=random)
    draft = target + noise * torch.randn(target.shape, generator=random)
    return Pair(Toy(target), Toy(draft), Vocabulary(None), frozenset())


def laws(pair: Pair) -> torch.Tensor:
    """float64[positions, V, V] of the target."""
    assert isinstance(pair.target, Toy)
    return pair.target.logits.double().softmax(-1)
