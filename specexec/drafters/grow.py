"""Best-first growth over any sources of guesses.   SpecExec, Svirschevski et al. 2024

The tree is exactly the best nodes seen: a draft pass looks below the best ones nobody looked below, all together.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np

from specexec.chance import Chance, Edge, Family
from specexec.drafters.growing import Expander, Growing, Lesson, Proposal
from specexec.drafters.model import SOURCE as MODEL
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
        self.chance.learn(self._reached(tree, picks, verdict))

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
            tree.offer(self._proposals(tree, nodes))

    def _proposals(self, tree: Growing, nodes: list[int]) -> list[Proposal]:
        found: list[Proposal] = []
        for expander in self.expanders:
            seen = {made.parent for made in found if made.source == MODEL} if expander.yields else set()
            found += expander.expand(tree, [node for node in nodes if node not in seen])
        return found

    def _tree(self) -> DraftTree:
        grown, place = self._growing, {node: i for i, node in enumerate(self._chosen)}
        return DraftTree(
            tuple(grown.tokens[node] for node in self._chosen),
            tuple(place.get(grown.parents[node], -1) for node in self._chosen),
            tuple(grown.score[node] for node in self._chosen),
            tuple(grown.source[node] for node in self._chosen),
            tuple(self._chances([place.get(grown.parents[node], -1) for node in self._chosen])),
        )

    def _chances(self, parents: Sequence[int]) -> list[float]:
        """P(the walk comes this far) of each chosen node, whose parents, among the chosen, come first."""
        chances, below = [1.0] * len(parents), _below(parents)
        for parent in sorted(below):
            for child, share in zip(below[parent], self.chance.of(self._family(below[parent])), strict=True):
                chances[child] = chances[parent] * float(share)
        return chances

    def _family(self, siblings: Sequence[int]) -> Family:
        grown, nodes = self._growing, [self._chosen[i] for i in siblings]
        return [Edge(grown.source[n], grown.edge[n], grown.depth[n], grown.score[grown.parents[n]]) for n in nodes]

    def _reached(self, tree: DraftTree, picks: Picks, verdict: Verdict) -> Iterator[tuple[Family, list[bool]]]:
        for node in verdict.path:
            if siblings := list(tree.children(node).values()):
                yield self._family(siblings), [tree.tokens[i] == picks.tokens[node] for i in siblings]

    def _lesson(self, i: int, node: int, picks: Picks) -> Lesson:
        grown = self._growing
        previous = grown.tokens[grown.parents[node]] if node else self._before
        log_p = [value - picks.log_sum_exp[i] for value in picks.top_logits[i]]
        weight = float(np.exp(grown.score[node]))
        return Lesson(node, previous, grown.tokens[node], picks.tokens[i], weight, picks.top_ids[i], log_p)


def _below(parents: Sequence[int]) -> dict[int, list[int]]:
    """{node: its children} of the nodes that have any."""
    below: dict[int, list[int]] = {}
    for node, parent in enumerate(parents):
        if parent >= 0:
            below.setdefault(parent, []).append(node)
    return below


class Nothing:
    """Implements Drafter for plain decoding: the pending token alone."""

    def draft(self, context: Sequence[int], worth: Worth, sampling: Sampling, noise: Noise) -> DraftTree:
        return DraftTree((context[-1],))

    def learn(self, tree: DraftTree, picks: Picks, verdict: Verdict) -> None:
        """There is nothing to learn."""

    @contextmanager
    def meanwhile(self, tree: DraftTree) -> Iterator[None]:
        yield
