"""One chain with rejection: speculative decoding as it began.   Leviathan et al. 2023; Chen et al. 2023"""

from collections.abc import Sequence

import torch

from tests.benchmarks.pair import Pair
from tests.benchmarks.rows import DraftRows, evaluate, tree_of
from tests.benchmarks.rule import depth_left, law
from tests.benchmarks.without_replacement import residual

TOGETHER = 16  # nodes


class Chain:
    """Implements Rule.

    The nodes behind a rejection change nothing, so the chain is drafted and verified a few nodes at a time: the tokens of a
    pass are those of the whole chain, only the time is less.
    """

    def __init__(self, pair: Pair, budget: int, temperature: float, seed: int) -> None:
        self.pair, self.budget, self.temperature, self.seed = pair, budget, temperature, seed

    def begin(self, prompt: Sequence[int], number: int) -> None:
        self.random = torch.Generator().manual_seed(self.seed * 1_000_003 + number)

    def advance(self, context: Sequence[int]) -> list[int]:
        rows = DraftRows(self.pair.draft, self.pair.vocabulary, context)
        self.pair.target.sync(context[:-1])
        tokens, p, longest = [context[-1]], torch.empty(0), min(self.budget, depth_left(self.pair, context))
        while True:
            start = len(tokens) - 1  # drafted and accepted so far
            q = self._extend(tokens, rows, min(TOGETHER, longest - start))
            chain = tree_of(tokens, range(-1, len(tokens) - 1))
            fresh = law(evaluate(self.pair.target, chain, start + 1 if start else 0), self.temperature)
            p = torch.cat((p[-1:], fresh))  # p[i] is the target's law at node start + i
            for i, token in enumerate(tokens[start + 1 :]):
                if not self._accepts(p[i], q[i], token):
                    return [*tokens[1 : start + 1 + i], self._sample(residual(p[i], q[i]))]
            if len(tokens) > longest:
                return [*tokens[1:], self._sample(p[-1])]

    def _extend(self, tokens: list[int], rows: DraftRows, count: int) -> list[torch.Tensor]:
        """Adds `count` nodes to the chain; returns the draft's law above each."""
        laws: list[torch.Tensor] = []
        for _ in range(count):
            laws.append(law(rows.at([len(tokens) - 1], tokens, range(-1, len(tokens) - 1)), self.temperature)[0])
            tokens.append(self._sample(laws[-1]))
        return laws

    def _accepts(self, p: torch.Tensor, q: torch.Tensor, token: int) -> bool:
        uniform = torch.rand(1, generator=self.random, dtype=torch.float64)
        return bool(uniform * q[token] < p[token])

    def _sample(self, p: torch.Tensor) -> int:
        return int(p.argmax() if self.temperature == 0 else torch.multinomial(p, 1, generator=self.random))
