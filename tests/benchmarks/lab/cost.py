"""What a rule's passes took, in nodes and draft passes: seconds are modelled from these."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from specexec.roles import Engine, Limits, Reader
from specexec.tree import DraftTree


@dataclass
class Cost:
    """nodes: of all trees together, their roots not counted. widths: {rows of one sequential draft pass: how many such}."""

    nodes: int = 0
    widths: Counter[int] = field(default_factory=Counter)


class Counted:
    """Implements Engine with another's, and counts its forwards. What it holds of the context already is not counted."""

    def __init__(self, engine: Engine, cost: Cost) -> None:
        self.engine, self.cost = engine, cost

    @property
    def limits(self) -> Limits:
        return self.engine.limits

    @property
    def missing(self) -> int:
        return 0

    def sync(self, tokens: Sequence[int]) -> None:
        self.engine.sync(tokens)

    def forward(self, tree: DraftTree, reader: Reader, first: int = 0) -> None:
        self.cost.widths[len(tree) - first] += 1
        self.engine.forward(tree, reader, first)
