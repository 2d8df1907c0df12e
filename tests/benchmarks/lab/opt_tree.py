"""The n likeliest nodes, found layer by layer; the target's own picks are followed.   OPT-Tree, Wang et al. 2024"""

from collections.abc import Sequence

import torch

from specexec.tree import DraftTree
from tests.benchmarks.lab.ground import Ground
from tests.benchmarks.lab.rows import DraftRows, tree_of

LEAST_GAIN = 0.2  # expected tokens that another layer must have added: published for a cheap draft and a large tree


class OptTree:
    """Implements Rule. Expected tokens: the sum of the paths' probabilities under the draft."""

    def __init__(self, ground: Ground, budget: int) -> None:
        self.ground, self.budget = ground, budget

    def teach(self, texts: Sequence[Sequence[int]]) -> None:
        """Measures nothing."""

    def advance(self, context: Sequence[int]) -> list[int]:
        return self.ground.follow(context, self.tree(context))

    def tree(self, context: Sequence[int]) -> DraftTree:
        layers = Layers(context[-1], self.budget)
        rows, expected = self.ground.rows(context), 0.0
        for _ in range(self.ground.levels(context)):
            layers.deepen(self.ground, rows)
            gain, expected = layers.expected - expected, layers.expected
            if gain < LEAST_GAIN:
                break
        return layers.best_tree()


class Layers:
    """Nodes seen so far, and which of them are the last layer. chance[n]: the path's probability."""

    def __init__(self, root: int, budget: int) -> None:
        self.budget, self.last = budget, [0]
        self.tokens, self.parents, self.chance = [root], [-1], [1.0]

    @property
    def expected(self) -> float:
        return sum(self.chance[node] for node in self._best())

    def deepen(self, ground: Ground, rows: DraftRows) -> None:
        """The next layer: the best `budget` of all children of the last."""
        q = ground.q(rows.at(self.last, self.tokens, self.parents))
        best = q.topk(min(self.budget, q.shape[-1]))
        below = best.values * torch.tensor([self.chance[node] for node in self.last], dtype=torch.float64)[:, None]
        chances, places = below.flatten().topk(min(self.budget, below.numel()))
        parents = [self.last[place // below.shape[1]] for place in places.tolist()]
        self.last = list(range(len(self.tokens), len(self.tokens) + len(places)))
        self.tokens += best.indices.flatten()[places].tolist()
        self.parents += parents
        self.chance += chances.tolist()

    def best_tree(self) -> DraftTree:
        chosen = [0, *sorted(self._best())]
        place = {node: i for i, node in enumerate(chosen)}
        return tree_of([self.tokens[n] for n in chosen], [place.get(self.parents[n], -1) for n in chosen])

    def _best(self) -> list[int]:
        return sorted(range(1, len(self.tokens)), key=lambda node: (-self.chance[node], node))[: self.budget]
