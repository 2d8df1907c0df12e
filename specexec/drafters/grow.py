"""Best-first growth over any sources of guesses.   SpecExec, Svirschevski et al. 2024

The tree is exactly the best nodes seen: a draft pass looks below the best ones nobody looked below, all together.
"""

import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import numpy as np

from specexec.chance import Chance, Families
from specexec.drafters.crew import SHARES, Crew
from specexec.drafters.growing import RUN, Expander, Growing, Lesson
from specexec.drafters.setting import Setting
from specexec.noise import Noise
from specexec.online import Vector
from specexec.roles import Idle, Worth
from specexec.sampling import Penalties, Sampling
from specexec.tree import DraftTree
from specexec.verify import Picks, Verdict

LEAST_BEAM = 4
AHEAD, LEAST_AHEAD = 8, 0.05  # nodes looked below while a pass waits, and the least chance that one of them is the next root
SMALLEST = 1e-3  # chance of a node that is kept while a pass waits
ROOM, LEAST_ROOM = 2, 32  # nodes kept for each that is worth it now, and beside them: more may become so
NOTHING = Growing(0, 0, 0)


class Grow:
    """Implements Drafter. context: positions the target has. idle: where its passes wait, if they do."""

    def __init__(self, expanders: Sequence[Expander], context: int, idle: Idle | None = None) -> None:
        self.expanders, self.context, self.idle, self.chance = expanders, context, idle, Chance()
        self.crews = _crews(expanders)
        self._growing = NOTHING
        self._chosen: list[int] = [0]
        self._context: Sequence[int] = ()

    def draft(self, context: Sequence[int], worth: Worth, sampling: Sampling, noise: Noise) -> DraftTree:
        if not worth.budget:
            self._growing = NOTHING
            return DraftTree((context[-1],))
        self._growing, self._context = Growing(context[-1], worth.budget, self.context - len(context)), context[-RUN:]
        penalties = Penalties(sampling, context[: noise.origin], context[noise.origin :])
        self._grow(Setting(context, sampling, noise, penalties), worth)
        ranked = self._growing.ranked()
        self._chosen = [0, *sorted(ranked[: worth.size(self._chances(ranked))])]
        return self._tree()

    def learn(self, tree: DraftTree, picks: Picks, verdict: Verdict) -> None:
        if not self._growing.budget:
            return
        for crew in self.crews:
            crew.learn()
        lessons = [self._lesson(i, node, picks) for i, node in enumerate(self._chosen)]
        for expander in self.expanders:
            expander.learn(lessons)
        grown, reached = self._growing, {self._chosen[i]: picks.tokens[i] for i in verdict.path}
        if nodes := [node for node in range(1, len(grown.tokens)) if grown.parents[node] in reached]:
            self.chance.learn(self._families(nodes), [grown.tokens[node] == reached[grown.parents[node]] for node in nodes])

    def meanwhile(self, tree: DraftTree) -> AbstractContextManager[None]:
        """Looks below the likeliest ends of the tree, for as long as the pass would wait: one of them may be the next root."""
        if self.idle is None or not self._growing.budget or not any(expander.models for expander in self.expanders):
            return nullcontext()
        self._growing.reopen(SMALLEST)
        return self.idle.filled(self._look_ahead)

    def _look_ahead(self, seconds: float) -> bool:
        crew, tree = self.crews[0], self._growing
        nodes = tree.best_waiting(AHEAD)
        chances = self._chances(nodes)
        if not (nodes and chances.sum() > LEAST_AHEAD and crew.seconds(len(nodes)) <= seconds):
            tree.put_back(nodes)
            return False
        self._appraise(tree.offer(crew.look(tree, nodes)))
        return True

    def _grow(self, setting: Setting, worth: Worth) -> None:
        for expander in self.expanders:
            expander.begin(setting)
        for crew in self.crews:
            while self._look(crew, worth):
                pass

    def _look(self, crew: Crew, worth: Worth) -> bool:
        """Below the nodes where that is worth its time; False where it is not below any."""
        began, missing = time.perf_counter(), crew.missing
        nodes = self._beam(crew, worth)
        if nodes:
            children = self._offered(crew, nodes)
            while known := self._known(crew):  # what came along with it costs nothing more
                children += self._offered(crew, known)
            crew.looked(len(nodes) + missing, time.perf_counter() - began, self._chances(nodes).sum(), children)
        return bool(nodes)

    def _offered(self, crew: Crew, nodes: list[int]) -> Vector:
        return self._appraise(self._growing.offer(crew.look(self._growing, nodes)))

    def _known(self, crew: Crew) -> list[int]:
        """Of the best nodes those that can be looked below for nothing."""
        waiting = self._growing.best_waiting(LEAST_BEAM)
        known = crew.known(self._growing, waiting)
        self._growing.put_back(node for node in waiting if node not in known)
        return known

    def _beam(self, crew: Crew, worth: Worth) -> list[int]:
        """The nodes to look below next."""
        tree, price = self._growing, 0.0
        if worth.costs is not None:
            best = np.sort(tree.chance[1:])[::-1][: worth.budget]
            size, price = worth.taken(best)
            price = min(price, best[size - 1] if size else 1.0)  # a better node takes the place of the last
            tree.keep(ROOM * size + LEAST_ROOM)
        waiting = tree.best_waiting(max(LEAST_BEAM, worth.budget // 4))
        count = crew.worthwhile(self._chances(waiting), price, worth)
        if not count and waiting == [0] and crew.affordable(worth.spare):
            count = 1
        tree.put_back(waiting[count:])
        return waiting[:count]

    def _appraise(self, new: range) -> Vector:
        """Says the chances of new nodes. The sums of those of best, second best, ... siblings."""
        tree, most = self._growing, len(SHARES)
        if not new:
            return np.zeros(most)
        families = self._families(new)
        chances = self._chances(tree.parents[new.start :]) * self.chance.of(families)
        tree.chance += chances.tolist()
        order = np.lexsort((-chances, families.family))
        rank = np.arange(len(new)) - families.first[families.family]  # families lie together, in the same order
        sums: Vector = np.bincount(np.minimum(rank, most), chances[order], most + 1)[:most].astype(np.float64)
        return sums

    def _chances(self, nodes: Sequence[int]) -> Vector:
        return np.array([self._growing.chance[node] for node in nodes])

    def _families(self, nodes: Sequence[int]) -> Families:
        grown = self._growing
        parents = [grown.parents[node] for node in nodes]
        return Families.of([grown.source[node] for node in nodes], parents, [grown.edge[node] for node in nodes],
                           [grown.depth[node] for node in nodes], [grown.score[parent] for parent in parents])

    def _tree(self) -> DraftTree:
        grown, place = self._growing, {node: i for i, node in enumerate(self._chosen)}
        return DraftTree(
            tuple(grown.tokens[node] for node in self._chosen),
            tuple(place.get(grown.parents[node], -1) for node in self._chosen),
            tuple(grown.score[node] for node in self._chosen),
            tuple(grown.source[node] for node in self._chosen),
            tuple(grown.chance[node] for node in self._chosen),
        )

    def _lesson(self, i: int, node: int, picks: Picks) -> Lesson:
        grown = self._growing
        log_p = [value - picks.log_sum_exp[i] for value in picks.top_logits[i]]
        weight = float(np.exp(grown.score[node]))
        return Lesson(node, grown.before(node, self._context), picks.tokens[i], weight, picks.top_ids[i], log_p)


def _crews(expanders: Sequence[Expander]) -> list[Crew]:
    """Each model in turn, and what does not yield to it; below what they leave, all the others."""
    others = [expander for expander in expanders if not expander.models]
    beside = [expander for expander in others if not expander.yields]
    return [*(Crew([one, *beside]) for one in expanders if one.models), Crew(others)]


class Nothing:
    """Implements Drafter for plain decoding: the pending token alone."""

    def draft(self, context: Sequence[int], worth: Worth, sampling: Sampling, noise: Noise) -> DraftTree:
        return DraftTree((context[-1],))

    def learn(self, tree: DraftTree, picks: Picks, verdict: Verdict) -> None:
        """There is nothing to learn."""

    def meanwhile(self, tree: DraftTree) -> AbstractContextManager[None]:
        return nullcontext()
