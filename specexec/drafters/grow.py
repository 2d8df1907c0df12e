"""Best-first growth over any sources of guesses.   SpecExec, Svirschevski et al. 2024

The tree is exactly the best nodes seen: a draft pass looks below the best ones nobody looked below, all together.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np

from specexec.chance import Chance, Edge
from specexec.drafters.growing import Expander, Growing, Lesson
from specexec.drafters.setting import Setting
from specexec.noise import Noise
from specexec.roles import Worth
from specexec.sampling import Penalties, Sampling
from specexec.tree import DraftTree
from specexec.verify import Picks, Verdict

LEAST_BEAM = 4
WORTH_LOOKING = 0.02  # tokens a draft pass must be able to add


class Grow:
    """Implements Drafter. context: positions the target has."""

    def __init__(self, expanders: Sequence[Expander], context: int) -> None:
        self.expanders, self.context, self.chance = expanders, context, Chance()
        self._growing = Growing(0, 0, 0)
        self._chosen: list[int] = [0]
        self._before: int | None = None

    def draft(self, context: Sequence[int], worth: Worth, sampling: Sampling, noise: Noise) -> DraftTree:
        prompt = noise.origin
        penalties = Penalties(sampling, context[:prompt], context[prompt:])
        self._before = context[-2] if len(context) > 1 else None
        self._growing = Growing(context[-1], worth.budget, self.context - len(context))
        if worth.budget:
            self._grow(Setting(context, sampling, noise, penalties, worth.budget))
        self._chosen = self._growing.chosen()
        return self._tree()

    def learn(self, tree: DraftTree, picks: Picks, verdict: Verdict) -> None:
        lessons = [self._lesson(i, node, picks) for i, node in enumerate(self._chosen)]
        for expander in self.expanders:
            expander.learn(lessons)
        self.chance.learn(self._edges(tree, picks))

    @contextmanager
    def meanwhile(self, tree: DraftTree) -> Iterator[None]:
        yield

    def _grow(self, setting: Setting) -> None:
        tree, beam = self._growing, max(LEAST_BEAM, setting.budget // 4)
        for expander in self.expanders:
            expander.begin(setting)
        while nodes := tree.best_waiting(beam):
            if sum(np.exp(tree.score[node]) for node in nodes) < WORTH_LOOKING:
                break
            tree.offer([found for expander in self.expanders for found in expander.expand(tree, nodes)])

    def _tree(self) -> DraftTree:
        grown, place = self._growing, {node: i for i, node in enumerate(self._chosen)}
        chances: list[float] = []
        for node in self._chosen:
            chances.append(chances[place[grown.parents[node]]] * self.chance.of(self._edge(node)) if node else 1.0)
        return DraftTree(
            tuple(grown.tokens[node] for node in self._chosen),
            tuple(place.get(grown.parents[node], -1) for node in self._chosen),
            tuple(grown.score[node] for node in self._chosen),
            tuple(grown.source[node] for node in self._chosen),
            tuple(chances),
        )

    def _edge(self, node: int) -> Edge:
        grown = self._growing
        return Edge(grown.source[node], grown.edge[node], grown.depth[node], grown.score[grown.parents[node]])

    def _edges(self, tree: DraftTree, picks: Picks) -> Iterator[tuple[Edge, bool, float]]:
        for i, node in enumerate(self._chosen[1:], 1):
            parent = tree.parents[i]
            yield self._edge(node), picks.tokens[parent] == tree.tokens[i], float(np.exp(tree.score[parent]))

    def _lesson(self, i: int, node: int, picks: Picks) -> Lesson:
        grown = self._growing
        previous = grown.tokens[grown.parents[node]] if node else self._before
        log_p = [value - picks.log_sum_exp[i] for value in picks.top_logits[i]]
        weight = float(np.exp(grown.score[node]))
        return Lesson(node, previous, grown.tokens[node], picks.tokens[i], weight, picks.top_ids[i], log_p)


class Nothing:
    """Implements Drafter for plain decoding: the pending token alone."""

    def draft(self, context: Sequence[int], worth: Worth, sampling: Sampling, noise: Noise) -> DraftTree:
        return DraftTree((context[-1],))

    def learn(self, tree: DraftTree, picks: Picks, verdict: Verdict) -> None:
        """There is nothing to learn."""

    @contextmanager
    def meanwhile(self, tree: DraftTree) -> Iterator[None]:
        yield
