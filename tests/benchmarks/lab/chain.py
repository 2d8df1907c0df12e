"""One chain with rejection: speculative decoding as it began.   Leviathan et al. 2023; Chen et al. 2023"""

from collections.abc import Sequence

from tests.benchmarks.lab.drawn import residual
from tests.benchmarks.lab.ground import Ground
from tests.benchmarks.lab.rows import chain_of


class Chain:
    """Implements Rule.

    The nodes behind a rejection change nothing, so the chain is drafted and verified node by node: the tokens of a pass are
    those of the whole chain, which is what is counted; only the time is less.
    """

    def __init__(self, ground: Ground, budget: int) -> None:
        self.ground, self.budget = ground, budget

    def teach(self, texts: Sequence[Sequence[int]]) -> None:
        """Measures nothing."""

    def advance(self, context: Sequence[int]) -> list[int]:
        longest = min(self.budget, self.ground.levels(context))
        written, looked = self._write(context, longest)
        self.ground.cost.nodes += longest
        self.ground.cost.widths[1] += longest - looked
        return written

    def _write(self, context: Sequence[int], longest: int) -> tuple[list[int], int]:
        """(tokens, draft passes)"""
        ground, chain, rows = self.ground, [context[-1]], self.ground.rows(context)
        for depth in range(longest):
            q = ground.q(rows.at([depth], chain, range(-1, depth)))[0]
            p = ground.evaluate(context, chain_of(chain), depth)[0]
            token = ground.sample(q)
            if ground.uniform() * q[token] >= p[token]:
                return [*chain[1:], ground.sample(residual(p, q))], depth + 1
            chain.append(token)
        return [*chain[1:], ground.sample(ground.evaluate(context, chain_of(chain), longest)[0])], longest
