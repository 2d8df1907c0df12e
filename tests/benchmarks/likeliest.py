"""SpecExec's rule: the tree of the likeliest paths, and a target sample of its own at every node.

Svirschevski et al. 2024: score = cumulative log q of the draft at temperature 1, less log 1/0.95 a level; samples at
different nodes are independent, and the walk follows them.
"""

import math
from collections.abc import Sequence

import torch

from specexec.drafters.growing import Growing, Proposal
from specexec.tree import DraftTree
from tests.benchmarks.pair import Pair
from tests.benchmarks.rows import DraftRows, evaluate, tree_of
from tests.benchmarks.rule import depth_left, law

A_LEVEL = math.log(0.95)
WIDTH = 64  # children looked at below a node: --max_branch_width of the published runs
LEAST_BEAM = 4


class Likeliest:
    """Implements Rule."""

    def __init__(self, pair: Pair, budget: int, temperature: float, seed: int) -> None:
        self.pair, self.budget, self.temperature, self.seed = pair, budget, temperature, seed

    def begin(self, prompt: Sequence[int], number: int) -> None:
        self.random = torch.Generator().manual_seed(self.seed * 1_000_003 + number)

    def advance(self, context: Sequence[int]) -> list[int]:
        tree = self._tree(context)
        self.pair.target.sync(context[:-1])
        samples = self._samples(evaluate(self.pair.target, tree))
        node, written = 0, [samples[0]]
        while written[-1] in tree.children(node):
            node = tree.children(node)[written[-1]]
            written.append(samples[node])
        return written

    def _samples(self, logits: torch.Tensor) -> list[int]:
        p = law(logits, self.temperature)
        drawn = p.argmax(-1) if self.temperature == 0 else torch.multinomial(p, 1, generator=self.random)[:, 0]
        return [int(token) for token in drawn]

    def _tree(self, context: Sequence[int]) -> DraftTree:
        grown = Growing(context[-1], self.budget, depth_left(self.pair, context))
        rows, beam = DraftRows(self.pair.draft, self.pair.vocabulary, context), max(LEAST_BEAM, self.budget // 4)
        while nodes := grown.best_waiting(beam):
            grown.offer(self._below(nodes, rows.at(nodes, grown.tokens, grown.parents), grown))
        chosen = grown.chosen()
        place = {node: i for i, node in enumerate(chosen)}
        return tree_of([grown.tokens[n] for n in chosen], [place.get(grown.parents[n], -1) for n in chosen])

    def _below(self, nodes: list[int], logits: torch.Tensor, grown: Growing) -> list[Proposal]:
        best = logits.log_softmax(-1).topk(min(WIDTH, logits.shape[-1], self.budget))
        found: list[Proposal] = []
        for node, ids, values in zip(nodes, best.indices.tolist(), best.values.tolist(), strict=True):
            floor = grown.floor - grown.score[node] - A_LEVEL
            found += [Proposal(node, t, v + A_LEVEL, "") for t, v in zip(ids, values, strict=True) if v > floor]
        return found
