"""What the compared rules have in common."""

from collections.abc import Sequence
from typing import Protocol

import torch

from tests.benchmarks.pair import Pair


class Rule(Protocol):
    """Drafts a tree and verifies it; every rule writes the target's own distribution."""

    def __init__(self, pair: Pair, budget: int, temperature: float, seed: int) -> None: ...

    def begin(self, prompt: Sequence[int], number: int) -> None:
        """Answer `number` starts below `prompt`."""

    def advance(self, context: Sequence[int]) -> list[int]:
        """The tokens that one pass of the target adds to `context`."""


def law(logits: torch.Tensor, temperature: float) -> torch.Tensor:
    """float64[n, V]: probabilities at the temperature; all on the largest logit where it is 0."""
    if temperature == 0:
        return torch.nn.functional.one_hot(logits.argmax(-1), logits.shape[-1]).double()
    return (logits.double() / temperature).softmax(-1)


def depth_left(pair: Pair, context: Sequence[int]) -> int:
    """Levels below node 0 that both contexts have room for."""
    return min(pair.target.limits.context, pair.draft.limits.context) - len(context)
