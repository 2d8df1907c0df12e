"""What the compared rules have in common."""

from collections.abc import Sequence
from typing import Protocol

from tests.benchmarks.lab.ground import Ground


class Rule(Protocol):
    """Drafts a tree of at most `budget` nodes, its root not counted, and verifies it; writes the target's own distribution."""

    def __init__(self, ground: Ground, budget: int) -> None: ...

    def teach(self, texts: Sequence[Sequence[int]]) -> None:
        """What a rule measures beforehand, on `texts` that the target wrote."""

    def advance(self, context: Sequence[int]) -> list[int]:
        """The tokens that one pass of the target adds to `context`, of the answer that the ground began."""
