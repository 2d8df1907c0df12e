"""Trees of samples, and their verification by rejection.

With repeats: SpecInfer, Miao et al. 2023. Without replacement: RSD, Jeon et al. 2024; Sequoia, Chen et al. 2024.
"""

from collections.abc import Callable, Sequence

import torch

from specexec.tree import DraftTree
from tests.benchmarks.lab.ground import Ground
from tests.benchmarks.lab.rows import tree_of

USED_UP = 1e-9  # draft mass below which no further sibling is drawn


class Drawn:
    """A tree while it grows. tries[node]: its children in the order in which they were drawn, repeats included.

    law: {node: float64[V], what its children were drawn from}.
    """

    def __init__(self, root: int) -> None:
        self.tokens, self.parents, self.depth = [root], [-1], [0]
        self.tries: list[list[int]] = [[]]
        self.law: dict[int, torch.Tensor] = {}

    def __len__(self) -> int:
        """Nodes, the root not counted."""
        return len(self.tokens) - 1

    def add(self, node: int, token: int) -> int:
        """The child of `node` that a draw of `token` stands for: an earlier one, or a new one."""
        child = next((child for child in self.tries[node] if self.tokens[child] == token), len(self.tokens))
        self.tries[node].append(child)
        if child == len(self.tokens):
            self.tokens.append(token)
            self.parents.append(node)
            self.depth.append(self.depth[node] + 1)
            self.tries.append([])
        return child

    def tree(self) -> DraftTree:
        return tree_of(self.tokens, self.parents)


Rest = Callable[[torch.Tensor, int], torch.Tensor]  # (q, a token that was rejected) -> what the next sibling was drawn from


def repeated(q: torch.Tensor, token: int) -> torch.Tensor:
    """Siblings are independent draws."""
    return q


def unrepeated(q: torch.Tensor, token: int) -> torch.Tensor:
    """Siblings are draws without replacement."""
    rest = q.clone()
    rest[token] = 0.0
    return rest / rest.sum()


def residual(p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    """What is left of p[..., V] after a rejected sample of q[..., V]."""
    rest = (p - q).clamp_(min=0)
    total = rest.sum(-1, keepdim=True)
    return torch.where(total > 0, rest / total, p)


def verify(ground: Ground, drawn: Drawn, p: torch.Tensor, rest: Rest) -> list[int]:
    """The accepted tokens and the last residual's. p: float64[n, V], the target's law at every node."""
    node: int | None = 0
    written: list[int] = []
    while node is not None:
        node, token = _step(ground, drawn, node, p[node], rest)
        written.append(token)
    return written


def _step(ground: Ground, drawn: Drawn, node: int, p: torch.Tensor, rest: Rest) -> tuple[int | None, int]:
    """(the accepted child, its token), or (None, a token of the last residual)."""
    q = drawn.law.get(node, p)
    for child in drawn.tries[node]:
        token = drawn.tokens[child]
        if ground.uniform() * q[token] < p[token]:
            return child, token
        p, q = residual(p, q), rest(q, token)
    return None, ground.sample(p)


def finish(ground: Ground, drawn: Drawn, context: Sequence[int], rest: Rest) -> list[int]:
    """What the pass over a drawn tree adds. At temperature 0 every exact rule follows the target's picks."""
    if ground.temperature == 0:
        return ground.follow(context, drawn.tree())
    ground.cost.nodes += len(drawn)
    return verify(ground, drawn, ground.evaluate(context, drawn.tree()), rest)


def ordered(ground: Ground, q: torch.Tensor, count: int) -> torch.Tensor:
    """int64[n, count]: tokens in the order in which they are drawn without replacement (Gumbel keys); greedy: the likeliest."""
    keys = q.log()
    if ground.temperature > 0:
        keys = keys - torch.empty_like(q).exponential_(generator=ground.random).log()
    return keys.topk(min(count, q.shape[-1])).indices
