"""Drafts of drafts: what a cheaper drafter writes for a tier is checked in the pass that the tier makes anyway.

A tier is verified as the target is: its own picks, under the noise everybody shares, become the draft of the tier above.
Cascade Speculative Drafting, Chen et al. 2023; TriForce, Sun et al. 2024
"""

import time
from collections.abc import Sequence

from specexec.drafters.setting import Setting
from specexec.roles import Budget, Drafter, Pass, Worth
from specexec.sampling import Penalties
from specexec.tree import DraftTree
from specexec.verify import Picks, verify


class Cascade:
    """What drafts for a tier, and how much that is worth: where it brings the tier no speed it stops."""

    def __init__(self, drafter: Drafter, budget: Budget) -> None:
        self.drafter, self.budget = drafter, budget
        self.tokens = self.passes = 0  # that the tier took, of its own picks, in passes with a guess
        self._drafting = 0.0  # seconds of the last guess

    def guess(self, context: Sequence[int], setting: Setting, worth: Worth) -> DraftTree:
        """Below `context`'s end. setting: of the tree above."""
        began = time.perf_counter()
        guess = self.drafter.draft(context, worth, setting.sampling, setting.noise)
        self._drafting = time.perf_counter() - began
        return guess

    def picks(self, guess: DraftTree, context: Sequence[int], setting: Setting) -> Picks:
        """What will read the tier's own picks at the guess's nodes."""
        origin = setting.noise.origin
        penalties = Penalties(setting.sampling, context[:origin], context[origin:])
        return Picks(guess, len(context) - 1, setting.sampling, setting.noise, penalties)

    def passed(self, beside: int, seconds: float) -> None:
        """The tier has made its pass of a node and so many tokens besides, without a guess."""
        self.budget.learn(Pass(beside, 1, 1, 0.0, seconds))

    def judge(self, guess: DraftTree, picks: Picks, beside: int, seconds: float) -> None:
        """The tier has made its pass, which took so long."""
        verdict = verify(guess, picks)
        self.drafter.learn(guess, picks, verdict)
        self.budget.learn(Pass(beside, len(guess), len(verdict.tokens), self._drafting, seconds))
        self.tokens, self.passes = self.tokens + len(verdict.tokens), self.passes + 1
