"""Guesses without a model: what followed the same words before, in this conversation or in the target's own mind.

Chains follow earlier occurrences of the text's end; Recycled remembers the target's laws after all the tokens it has
evaluated, accepted or not.
"""

import numpy as np

from specexec.drafters.automaton import START, SuffixAutomaton
from specexec.drafters.belief import Belief, Candidates
from specexec.drafters.growing import Growing, Lesson, Proposal
from specexec.drafters.laws import Laws
from specexec.drafters.setting import Setting
from specexec.online import Ids, Vector

BRANCHES = 4  # continuations taken from one state
LONGEST = 16  # a longer match is counted as this long
SUCCESSORS = 32  # looked at below a node
SMALLEST = 1e-38  # chance: fp32 knows no smaller ones


class Chains:
    """Implements Expander: continuations of the longest suffix that occurred before."""

    source, models, yields, missing = "chain", False, False, 0

    def __init__(self) -> None:
        self.automaton = SuffixAutomaton()
        self._tries: dict[tuple[int, int], list[float]] = {}  # {(match, branches): [hits, tries]}
        self._at: dict[int, tuple[int, int]] = {}  # {growing node: (state, length of the match)}
        self._offered: dict[int, tuple[tuple[int, int], list[int]]] = {}

    def begin(self, setting: Setting) -> None:
        self.setting = setting
        self.automaton.follow(setting.context)
        state = self.automaton.repeated
        self._at, self._offered = {0: (state, self.automaton.length[state])}, {}

    def expand(self, tree: Growing, nodes: list[int]) -> list[Proposal]:
        return [made for node in nodes for made in self._below(tree, node)]

    def knows(self, tree: Growing, node: int) -> bool:
        return True

    def learn(self, lessons: list[Lesson]) -> None:
        for at in lessons:
            if at.node in self._offered:
                key, tokens = self._offered[at.node]
                counts = self._tries.setdefault(key, [1.0, 2.0])
                counts[0] += at.weight * (at.pick in tokens)
                counts[1] += at.weight

    def _below(self, tree: Growing, node: int) -> list[Proposal]:
        state, match = self._reach(tree, node)
        if state == START:
            return []
        tokens = list(self.automaton.next[state])[:BRANCHES]
        key = min(match, LONGEST), len(tokens)
        hits, tries = self._tries.get(key, (1.0, 2.0))
        self._offered[node] = key, tokens
        log_p = np.full(len(tokens), np.log(hits / tries / max(1, len(tokens))))
        scores = _knowing(log_p, self.setting.noise_of(tree.depth[node], np.array(tokens, dtype=np.int64)))
        return [Proposal(node, token, float(s), self.source) for token, s in zip(tokens, scores, strict=True)]

    def _reach(self, tree: Growing, node: int) -> tuple[int, int]:
        if node not in self._at:
            state, match = self._reach(tree, tree.parents[node])
            below = self.automaton.next[state].get(tree.tokens[node], START) if state != START else START
            self._at[node] = below, match + 1
        return self._at[node]


def _knowing(log_p: Vector, noise: Vector) -> Vector:
    """log P(a token of probability p wins | its noise g) = -(1 - p) / p * exp(-g): all others together are one Gumbel race."""
    if not noise.any():
        return log_p
    return -(np.exp(-log_p) - 1) * np.exp(-noise)


class Recycled:
    """Implements Expander: what the target would have said after the same tokens before."""

    source, models, yields, missing = "recycled", False, True, 0  # beside a model it took nodes from better guesses: measured

    def __init__(self) -> None:
        self.belief, self.laws = Belief(), Laws()
        self._candidates: dict[int, Candidates] = {}

    def begin(self, setting: Setting) -> None:
        self.setting, self._candidates = setting, {}

    def expand(self, tree: Growing, nodes: list[int]) -> list[Proposal]:
        return [made for node in nodes for made in self._below(tree, node)]

    def knows(self, tree: Growing, node: int) -> bool:
        return True

    def learn(self, lessons: list[Lesson]) -> None:
        self.belief.learn([(self._candidates[at.node], at.pick, at.weight) for at in lessons if at.node in self._candidates])
        for at in sorted(lessons, key=lambda lesson: lesson.weight):  # the likeliest context has the last word
            self.laws.learn(at.before, at.top_ids, np.array(at.top_log_p))

    def _below(self, tree: Growing, node: int) -> list[Proposal]:
        law = self.laws.below(tree.before(node, self.setting.context))
        if law is None:
            return []
        self._candidates[node] = candidates = self._best(*law, tree.depth[node])
        scores = self.belief.scores(candidates)
        return [Proposal(node, token, score, self.source)
                for token, score in zip(candidates.ids.tolist(), scores.tolist(), strict=True)]

    def _best(self, ids: Ids, p: Vector, depth: int) -> Candidates:
        """The likeliest to win, knowing the noise."""
        log_q, noise = np.log(np.maximum(p, SMALLEST)), self.setting.noise_of(depth, ids)
        best = np.argsort(-(self.belief.a * log_q + self.belief.b * noise), kind="stable")[:SUCCESSORS]
        return Candidates(ids[best], log_q[best], noise[best])
