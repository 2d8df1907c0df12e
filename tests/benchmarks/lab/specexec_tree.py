"""SpecExec's tree: the likeliest paths under the draft, deeper ones a little less; the target's own picks are followed.

Svirschevski et al. 2024, as released: score = cumulative log q of the draft at temperature 1, plus log 0.95 a level.
"""

import math
from collections.abc import Sequence

import torch

from specexec.drafters.growing import Growing, Proposal
from specexec.tree import DraftTree
from tests.benchmarks.lab.ground import Ground
from tests.benchmarks.lab.rows import tree_of

A_LEVEL = math.log(0.95)
BEAM, WIDTH, DEEPEST = 128, 64, 32  # nodes looked at in a draft pass, children of each, draft passes: the published runs'


class SpecExecTree:
    """Implements Rule."""

    def __init__(self, ground: Ground, budget: int) -> None:
        self.ground, self.budget = ground, budget

    def teach(self, texts: Sequence[Sequence[int]]) -> None:
        """Measures nothing."""

    def advance(self, context: Sequence[int]) -> list[int]:
        return self.ground.follow(context, self.tree(context))

    def tree(self, context: Sequence[int]) -> DraftTree:
        grown, rows = Growing(context[-1], self.budget, self.ground.levels(context)), self.ground.rows(context)
        for _ in range(DEEPEST):
            nodes = grown.best_waiting(BEAM)
            if not nodes:
                break
            grown.offer(self._below(nodes, rows.at(nodes, grown.tokens, grown.parents), grown))
        chosen = [0, *sorted(grown.ranked())]
        place = {node: i for i, node in enumerate(chosen)}
        return tree_of([grown.tokens[n] for n in chosen], [place.get(grown.parents[n], -1) for n in chosen])

    def _below(self, nodes: list[int], logits: torch.Tensor, grown: Growing) -> list[Proposal]:
        best = logits.log_softmax(-1).topk(min(WIDTH, logits.shape[-1], self.budget))
        found: list[Proposal] = []
        for node, ids, values in zip(nodes, best.indices.tolist(), best.values.tolist(), strict=True):
            floor = grown.floor - grown.score[node] - A_LEVEL
            found += [Proposal(node, t, v + A_LEVEL, "") for t, v in zip(ids, values, strict=True) if v > floor]
        return found
