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
        self._helped = self._spent = False  # whether a guess for this tree came true, and nothing was left to guess then

    def begin(self, fresh: bool) -> None:
        """A new tree above. fresh: of another answer, which may be easier to guess than the text of the last one."""
        self._helped = self._spent = False
        if fresh:
            self.budget.wake()

    def worth(self, beside: int) -> Worth:
        """Of a guess in a pass that evaluates so many tokens besides."""
        return Worth(0) if self._spent else self.budget.worth(beside)

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
        if not self._spent:
            self.budget.learn(Pass(beside, 1, 1, 0.0, seconds))

    def judge(self, guess: DraftTree, picks: Picks, beside: int, seconds: float) -> None:
        """The tier has made its pass, which took so long."""
        began, verdict = time.perf_counter(), verify(guess, picks)
        self.drafter.learn(guess, picks, verdict)
        seconds += time.perf_counter() - began
        self._helped |= len(verdict.tokens) > 1
        self._spent = self._helped and len(guess) == 1  # what is left of a tree that was helped says nothing of the next one
        if not self._spent:
            self.budget.learn(Pass(beside, len(guess), len(verdict.tokens), self._drafting, seconds))
        self.tokens, self.passes = self.tokens + len(verdict.tokens), self.passes + 1
