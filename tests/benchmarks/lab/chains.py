"""k chains of independent samples, merged into a prefix tree.   SpecInfer, Miao et al. 2023"""

import math
from collections.abc import Sequence

from tests.benchmarks.lab.drawn import Drawn, finish, ordered, repeated
from tests.benchmarks.lab.ground import Ground


class Chains:
    """Implements Rule: as many chains as the square root of the budget, deepened evenly until its nodes are used.

    At temperature 0, where samples would be one chain, they start at the k likeliest tokens.
    """

    def __init__(self, ground: Ground, budget: int) -> None:
        self.ground, self.budget, self.count = ground, budget, math.isqrt(budget)

    def teach(self, texts: Sequence[Sequence[int]]) -> None:
        """Measures nothing."""

    def advance(self, context: Sequence[int]) -> list[int]:
        return finish(self.ground, self.draw(context), context, repeated)

    def draw(self, context: Sequence[int]) -> Drawn:
        drawn, rows, ends = Drawn(context[-1]), self.ground.rows(context), [0] * self.count
        levels = self.ground.levels(context)
        while ends and len(drawn) < self.budget and drawn.depth[ends[0]] < levels:
            nodes = sorted(set(ends))
            laws = self.ground.q(rows.at(nodes, drawn.tokens, drawn.parents))
            drawn.law.update(zip(nodes, laws, strict=True))
            ends = self._deepen(drawn, ends)
        return drawn

    def _deepen(self, drawn: Drawn, ends: Sequence[int]) -> list[int]:
        """The chains' next ends. Whether a token is drawn never depends on that token."""
        likeliest = ordered(self.ground, drawn.law[0], len(ends)).tolist() if not any(ends) else []
        deeper: list[int] = []
        for i, end in enumerate(ends):
            if len(drawn) == self.budget:
                break
            greedy_start = self.ground.temperature == 0 and likeliest
            token = likeliest[i % len(likeliest)] if greedy_start else self.ground.sample(drawn.law[end])
            deeper.append(drawn.add(end, token))
        return deeper
