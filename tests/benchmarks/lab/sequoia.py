"""A fixed tree, the best for the acceptance measured beforehand, drafted without replacement.   Sequoia, Chen et al. 2024"""

from collections.abc import Sequence

import torch

from tests.benchmarks.lab.drawn import USED_UP, Drawn, finish, ordered, residual, unrepeated
from tests.benchmarks.lab.ground import Ground
from tests.benchmarks.lab.rows import chain_of
from tests.benchmarks.lab.topology import Best, Shape

WIDEST, DEEPEST = 32, 32  # the acceptance vector's length as published; levels


def acceptance(p: torch.Tensor, q: torch.Tensor, order: torch.Tensor) -> torch.Tensor:
    """float64[k]: how often the k-th sibling in order[n, k] is the first accepted one; p, q float64[n, V]."""
    p, q, rows = p.clone(), q.clone(), torch.arange(len(p))
    alive, firsts = torch.ones(len(p), dtype=torch.float64), []
    for token in order.T:
        accepted = (p[rows, token] / q[rows, token].clamp(min=USED_UP)).clamp(max=1.0)
        firsts.append(float((alive * accepted).mean()))
        alive = alive * (1 - accepted)
        p = residual(p, q)
        q[rows, token] = 0.0
        q /= q.sum(-1, keepdim=True).clamp(min=USED_UP)
    return torch.tensor(firsts, dtype=torch.float64)


class Sequoia:
    """Implements Rule."""

    def __init__(self, ground: Ground, budget: int) -> None:
        self.ground, self.budget = ground, budget
        self.shape: Shape = ()

    def teach(self, texts: Sequence[Sequence[int]]) -> None:
        """Measures the acceptance along `texts`, and finds the tree."""
        firsts = torch.stack([self._along(text) for text in texts]).mean(0)
        self.shape = Best(firsts.tolist(), self.budget + 1, DEEPEST).shape

    def _along(self, text: Sequence[int]) -> torch.Tensor:
        chain = chain_of(text)
        q = self.ground.q(self.ground.rows(text[:1]).at(range(len(text)), chain.tokens, chain.parents))
        return acceptance(self.ground.evaluate(text[:1], chain), q, ordered(self.ground, q, WIDEST))

    def advance(self, context: Sequence[int]) -> list[int]:
        return finish(self.ground, self._draw(context), context, unrepeated)

    def _draw(self, context: Sequence[int]) -> Drawn:
        drawn, rows = Drawn(context[-1]), self.ground.rows(context)
        level: dict[int, Shape] = {0: self.shape}
        for _ in range(self.ground.levels(context)):
            level = {node: shape for node, shape in level.items() if shape}
            if not level:
                break
            q = self.ground.q(rows.at(list(level), drawn.tokens, drawn.parents))
            order = ordered(self.ground, q, WIDEST).tolist()
            level = dict(item for (node, shape), law, tokens in zip(level.items(), q, order, strict=True)
                         for item in _below(drawn, node, shape, law, tokens))
        return drawn


def _below(drawn: Drawn, node: int, shape: Shape, law: torch.Tensor, order: Sequence[int]) -> list[tuple[int, Shape]]:
    """The children of `node`, each with the shape below it; none once the draft's mass is used up."""
    drawn.law[node] = law
    shares = law[list(order[: len(shape)])].cumsum(0).tolist()
    before = [0.0, *shares]
    return [(drawn.add(node, token), child) for token, child, used in zip(order, shape, before, strict=False)
            if used < 1 - USED_UP]
