"""A tree while it grows: every node seen that may still be among the best, and which of them to look below next."""

import heapq
import math
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np

from specexec.drafters.setting import Setting
from specexec.tree import ROOT

RUN = 4  # tokens by which it is remembered what came after them


class Proposal(NamedTuple):
    parent: int  # node of the growing tree
    token: int
    score: float  # log of the belief in this edge, <= 0
    source: str


class Growing:
    """Nodes in the order they were seen. Scores fall along a path, so the best nodes always form a tree."""

    def __init__(self, root: int, budget: int, deepest: int) -> None:
        self.budget, self.deepest = budget, deepest
        self.tokens, self.parents, self.source = [root], [ROOT], ["root"]
        self.score, self.edge, self.depth = [0.0], [0.0], [0]
        self.chance = [1.0]  # that the walk comes to a node: whoever offers nodes says it
        self.least = -float("inf")  # of the scores that nodes are still kept for
        self._best: list[float] = []  # the `budget` best scores, smallest first
        self._waiting = [(0.0, 0)]  # (-score, node) not looked below yet

    @property
    def floor(self) -> float:
        """A score that a new node must beat."""
        return max(self.least, self._best[0]) if len(self._best) == self.budget else self.least

    def keep(self, count: int) -> None:
        """From now on none that is worse than the `count` best there are."""
        if len(self.score) > count:
            self.least = float(np.partition(self.score, -count)[-count])

    def reopen(self, chance: float) -> None:
        """From now on any number of nodes is kept, down to such a belief."""
        self.budget, self._best, self.least = sys.maxsize, [], math.log(chance)

    def best_waiting(self, count: int) -> list[int]:
        """Takes the best nodes nobody has looked below, at most `count`, of those still among the best."""
        taken: list[int] = []
        while self._waiting and len(taken) < count and -self._waiting[0][0] >= self.floor:
            node = heapq.heappop(self._waiting)[1]
            if self.depth[node] < self.deepest:
                taken.append(node)
        return taken

    def put_back(self, nodes: Iterable[int]) -> None:
        """Nodes that were taken and not looked below."""
        for node in nodes:
            heapq.heappush(self._waiting, (-self.score[node], node))

    def offer(self, proposals: Iterable[Proposal]) -> range:
        """Keeps the proposals that are among the best; of equal siblings the higher score. The new nodes, siblings together."""
        unique: dict[tuple[int, int], Proposal] = {}
        for found in proposals:
            key = found.parent, found.token
            if key not in unique or found.score > unique[key].score:
                unique[key] = found
        first = len(self.tokens)
        for found in sorted(unique.values(), key=lambda found: found.parent):
            self._add(found)
        return range(first, len(self.tokens))

    def _add(self, found: Proposal) -> None:
        score = self.score[found.parent] + min(found.score, 0.0)
        if score <= self.floor:
            return
        heapq.heappush(self._best, score)
        if len(self._best) > self.budget:
            heapq.heappop(self._best)
        heapq.heappush(self._waiting, (-score, len(self.tokens)))
        self.tokens.append(found.token)
        self.parents.append(found.parent)
        self.source.append(found.source)
        self.score.append(score)
        self.edge.append(min(found.score, 0.0))
        self.depth.append(self.depth[found.parent] + 1)

    def ranked(self) -> list[int]:
        """The `budget` best nodes but node 0, best first: each comes after its parent."""
        return sorted(range(1, len(self.tokens)), key=lambda node: (-self.score[node], node))[: self.budget]

    def path(self, node: int) -> list[int]:
        """The tokens below the root down to `node`'s."""
        tokens: list[int] = []
        while node:
            tokens.append(self.tokens[node])
            node = self.parents[node]
        return tokens[::-1]

    def before(self, node: int, context: Sequence[int]) -> tuple[int, ...]:
        """The last RUN tokens at a node, its own included; the context ends with the root."""
        return (*context[-RUN:], *self.path(node))[-RUN:]


class Expander(Protocol):
    """A source of guesses: says what may come below a node.

    models: whether it runs one. yields: it is asked only below nodes that no model was asked below. missing: tokens that it
    will have to catch up with before it can propose anything.
    """

    models: bool
    yields: bool

    @property
    def missing(self) -> int: ...

    def begin(self, setting: Setting) -> None:
        """A new tree starts."""

    def expand(self, tree: Growing, nodes: list[int]) -> list[Proposal]:
        """Proposals below `nodes`, in one go."""

    def knows(self, tree: Growing, node: int) -> bool:
        """Whether it can propose below a node for next to nothing."""

    def learn(self, lessons: "list[Lesson]") -> None:
        """The target's picks at the nodes of the tree that grew."""


@dataclass(frozen=True)
class Lesson:
    """What the target did at a node of the tree that grew last."""

    node: int  # of the growing tree
    before: tuple[int, ...]  # the last RUN tokens, the node's own included
    pick: int
    weight: float  # belief that the walk comes here
    top_ids: list[int]
    top_log_p: list[float]
