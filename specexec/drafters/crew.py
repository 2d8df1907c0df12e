"""Sources that look below nodes together, what that takes, and what it brings."""

import time
from collections.abc import Sequence

import numpy as np

from specexec.cost import HOPE, Curve
from specexec.drafters.growing import Expander, Growing, Proposal
from specexec.online import Vector
from specexec.roles import Worth

SHARES = (0.6, 0.15, 0.05, 0.02)  # before anything is known: of a node's chance, what its children have, best first
SLOWLY = 0.05  # the weight of a new round in that
AGAIN = 0.002  # the share of the time that goes into looking where it is not believed to be worth it: it may be by now
WORTH_LOOKING = 0.02  # tokens that a round must be able to add


class Crew:
    """curve: seconds of a round by the nodes looked below, tokens caught up with included."""

    def __init__(self, expanders: Sequence[Expander]) -> None:
        self.expanders, self.curve = expanders, Curve()
        self.shares = np.array(SHARES)
        self._looks: list[tuple[int, float]] = []
        self._last = time.perf_counter()

    @property
    def missing(self) -> int:
        return sum(expander.missing for expander in self.expanders)

    def seconds(self, nodes: int) -> float:
        """What looking below so many is believed to take."""
        return float(self.curve.seconds([nodes + self.missing], HOPE)[0])

    def worthwhile(self, chances: Vector, price: float, worth: Worth) -> int:
        """How many of the nodes of these chances, best first, to look below now."""
        if not len(chances):
            return 0
        gains = np.cumsum(np.maximum(np.outer(chances, self.shares) - price, 0.0).sum(1))
        counts = np.arange(1, len(chances) + 1) + self.missing
        gains -= worth.rate * self.curve.seconds(counts, HOPE)
        best = int(np.argmax(gains))
        return best + 1 if gains[best] > WORTH_LOOKING else 0

    def affordable(self, spare: float) -> bool:
        """Whether to look below one node all the same, with so many seconds to spare, or those saved up since the last time."""
        return self.seconds(1) <= max(spare, AGAIN * (time.perf_counter() - self._last))

    def known(self, tree: Growing, nodes: Sequence[int]) -> list[int]:
        """Of these nodes, those that its models have evaluated already."""
        models = [expander for expander in self.expanders if expander.models]
        return [node for node in nodes if models and all(expander.knows(tree, node) for expander in models)]

    def look(self, tree: Growing, nodes: list[int]) -> list[Proposal]:
        """What a model says of a token stands: a text's repetitions beside it would only say more than they know."""
        said: dict[bool, list[Proposal]] = {True: [], False: []}
        for expander in self.expanders:
            said[expander.models] += expander.expand(tree, nodes)
        known = {(made.parent, made.token) for made in said[True]}
        return said[True] + [made for made in said[False] if (made.parent, made.token) not in known]

    def looked(self, nodes: int, seconds: float, above: float, children: Vector) -> None:
        """above: the chances of the nodes looked below, together; children: those of their best, second best, ... children."""
        self._last = time.perf_counter()
        self._looks.append((nodes, seconds))
        self.shares += SLOWLY * (children - above * self.shares)

    def learn(self) -> None:
        """From all looks since the last time, if they took long enough."""
        if self._looks and self.curve.due(seconds for _, seconds in self._looks):
            nodes, seconds = zip(*self._looks, strict=True)
            self.curve, self._looks = self.curve.measured(nodes, seconds), []
