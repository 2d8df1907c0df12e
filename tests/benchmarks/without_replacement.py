"""Rejection without replacement: siblings are a sample of the draft's law, verified by recursive residual rejection.

RSD, Jeon et al. 2024; Sequoia, Chen et al. 2024. The shape is grown slot by slot as in DySpec, Xiong et al. 2024: which
slot is filled next depends on tokens drawn before, never on the slot's own, so the text keeps the target's distribution.
"""

import heapq
from collections.abc import Sequence

import torch

from tests.benchmarks.acceptance import Acceptance
from tests.benchmarks.pair import Pair
from tests.benchmarks.rows import DraftRows, evaluate, tree_of
from tests.benchmarks.rule import depth_left, law

WIDTH = 64  # siblings at most
LEAST_BEAM = 4
USED_UP = 1e-9  # draft mass below which no further sibling is drawn


class Drawn:
    """A tree of samples while it grows. tokens, parents as in DraftTree; children[node] in the order they were drawn."""

    def __init__(self, root: int) -> None:
        self.tokens, self.parents, self.depth = [root], [-1], [0]
        self.children: list[list[int]] = [[]]
        self.law: dict[int, torch.Tensor] = {}  # {node: float64[V], the draft's}
        self.order: dict[int, list[int]] = {}  # {node: tokens in the order they are drawn}

    def add(self, node: int) -> tuple[int, float]:
        """The next sibling below `node`, and its probability among the tokens not drawn before it."""
        drawn = self.order[node][: len(self.children[node]) + 1]
        share = float(self.law[node][drawn[-1]]) / self.left(node)
        self.tokens.append(drawn[-1])
        self.parents.append(node)
        self.depth.append(self.depth[node] + 1)
        self.children[node].append(len(self.tokens) - 1)
        self.children.append([])
        return len(self.tokens) - 1, min(share, 1.0)

    def left(self, node: int) -> float:
        """The draft's mass that is not drawn yet."""
        return 1.0 - float(self.law[node][[self.tokens[child] for child in self.children[node]]].sum())


class WithoutReplacement:
    """Implements Rule; its samples degenerate at temperature 0, where Likeliest takes its place."""

    def __init__(self, pair: Pair, budget: int, temperature: float, seed: int) -> None:
        self.pair, self.budget, self.temperature, self.seed = pair, budget, temperature, seed
        self.acceptance = Acceptance()

    def begin(self, prompt: Sequence[int], number: int) -> None:
        self.random = torch.Generator().manual_seed(self.seed * 1_000_003 + number)

    def advance(self, context: Sequence[int]) -> list[int]:
        drawn = self._grow(context)
        self.pair.target.sync(context[:-1])
        p = law(evaluate(self.pair.target, tree_of(drawn.tokens, drawn.parents)), self.temperature)
        written: list[int] = []
        node: int | None = 0
        while node is not None:
            node, token = self._step(drawn, node, p[node])
            written.append(token)
        self.acceptance.finish()
        return written

    def _step(self, drawn: Drawn, node: int, p: torch.Tensor) -> tuple[int | None, int]:
        """(the accepted child, its token), or (None, a token of the last residual)."""
        q = drawn.law[node].clone() if drawn.children[node] else p
        for rank, child in enumerate(drawn.children[node], 1):
            token = drawn.tokens[child]
            self.acceptance.see(float(q[token]), rank, min(1.0, float(p[token] / q[token])))
            if self._uniform() * q[token] < p[token]:
                return child, token
            p = residual(p, q)
            q[token] = 0.0
            q /= q.sum()
        return None, int(torch.multinomial(p, 1, generator=self.random))

    def _uniform(self) -> float:
        return float(torch.rand(1, generator=self.random, dtype=torch.float64))

    def _grow(self, context: Sequence[int]) -> Drawn:
        drawn, rows = Drawn(context[-1]), DraftRows(self.pair.draft, self.pair.vocabulary, context)
        deepest = depth_left(self.pair, context)
        slots = [(-1.0, 0, 1, 1.0)]  # (-priority, node, rank, chance that the slot is tried)
        while slots and len(drawn.tokens) <= self.budget:
            _, node, rank, tried = heapq.heappop(slots)
            if node not in drawn.law:
                self._look(drawn, rows, [node, *_next(slots, drawn, max(LEAST_BEAM, self.budget // 4))])
            child, share = drawn.add(node)
            accepted = self.acceptance.of(share, rank)
            if drawn.depth[child] < deepest:
                self._push(slots, child, 1, tried * accepted)
            if rank < len(drawn.order[node]) and drawn.left(node) > USED_UP:
                self._push(slots, node, rank + 1, tried * (1 - accepted))
        return drawn

    def _push(self, slots: list[tuple[float, int, int, float]], node: int, rank: int, tried: float) -> None:
        heapq.heappush(slots, (-tried * self.acceptance.of_rank(rank), node, rank, tried))

    def _look(self, drawn: Drawn, rows: DraftRows, nodes: list[int]) -> None:
        """The draft's laws at `nodes`, and Gumbel keys, whose order is a sample without replacement."""
        q = law(rows.at(nodes, drawn.tokens, drawn.parents), self.temperature)
        waits = torch.empty_like(q).exponential_(generator=self.random)
        order = (q.log() - waits.log()).topk(min(WIDTH, q.shape[-1])).indices.tolist()
        for node, row, tokens in zip(nodes, q, order, strict=True):
            drawn.law[node], drawn.order[node] = row, tokens


def _next(slots: list[tuple[float, int, int, float]], drawn: Drawn, count: int) -> list[int]:
    """The best nodes that wait for the draft: looking at them early saves passes and changes nothing."""
    return [slot[1] for slot in heapq.nsmallest(count, (slot for slot in slots if slot[1] not in drawn.law))]


def residual(p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    """What is left of p after a rejected sample of q."""
    rest = (p - q).clamp_(min=0)
    total = rest.sum()
    return rest / total if total > 0 else p
