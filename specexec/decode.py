"""The decode loop: draft, forward, verify, until the answer ends."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from specexec.answer import Answer
from specexec.errors import Interrupted
from specexec.noise import Noise
from specexec.roles import Budget, Drafter, Pass, Target, Worth
from specexec.sampling import Penalties, Sampling
from specexec.stretch import Stretch
from specexec.tree import DraftTree
from specexec.verify import Picks, Verdict, verify

AT_ONCE = 0.01  # seconds of plain passes that nobody needs to see one by one


@dataclass(frozen=True)
class Step:
    """One pass of the target; or some, one below the other, where nothing is drafted: the tree is then the first one's."""

    tree: DraftTree
    verdict: Verdict
    text: str  # what it lets be shown
    draft_seconds: float
    target_seconds: float
    passes: int = 1


def decode(
    target: Target, drafter: Drafter, budget: Budget, sampling: Sampling, noise: Noise, prompt: Sequence[int], answer: Answer
) -> Iterator[Step]:
    """Writes `answer`, a step a pass. Its text depends on target, sampling, noise and prompt alone."""
    return _Decoding(target, drafter, budget, sampling, noise, prompt, answer).steps()


@dataclass(frozen=True)
class _Decoding:
    target: Target
    drafter: Drafter
    budget: Budget
    sampling: Sampling
    noise: Noise
    prompt: Sequence[int]
    answer: Answer

    def steps(self) -> Iterator[Step]:
        while self.answer.stop_reason is None:
            began, context = time.perf_counter(), [*self.prompt, *self.answer.ids]
            self.target.sync(context[:-1])  # the last token is pending: it is the tree's root
            missing = self.target.missing
            worth = self.budget.worth(missing)
            plain = not worth.budget and not missing and not self.sampling.penalises
            yield self._plain(context, worth.passes, began) if plain else self._drafted(context, worth, missing, began)

    def _drafted(self, context: Sequence[int], worth: Worth, missing: int, began: float) -> Step:
        target, answer = self.target, self.answer
        tree = self.drafter.draft(context, worth, self.sampling, self.noise)
        drafted, waited = time.perf_counter(), target.waited
        penalties = Penalties(self.sampling, self.prompt, answer.ids)
        picks = Picks(tree, len(context) - 1, self.sampling, self.noise, penalties, worth.budget > 0)
        with self.drafter.meanwhile(tree):
            target.forward(tree, picks)
        verdict = verify(tree, picks)
        evaluated = time.perf_counter()
        self.drafter.learn(tree, picks, verdict)
        text, ended = answer.take(verdict.tokens), time.perf_counter()
        took = ended - drafted
        self.budget.learn(Pass(missing, len(tree), len(verdict.tokens), drafted - began, took, target.waited - waited))
        return Step(tree, verdict, text, drafted - began + ended - evaluated, evaluated - drafted)

    def _plain(self, context: Sequence[int], passes: int, began: float) -> Step:
        """Passes without a draft, as many as take next to no time; a first one in any case."""
        target, answer, asked, waited = self.target, self.answer, time.perf_counter(), self.target.waited
        written = Stretch(len(context), self.sampling, self.noise, min(passes, answer.left), answer.endings.eos)
        try:
            target.extend(context[-1], written, AT_ONCE)
        except Interrupted:  # what was picked stands; who goes on is interrupted again
            if not written.tokens:
                raise
        evaluated, verdict, count = time.perf_counter(), written.verdict, len(written.tokens)
        text, ended = answer.take(verdict.tokens), time.perf_counter()
        each = Pass(0, 1, 1, 0.0, (ended - began) / count, (target.waited - waited) / count)
        for _ in verdict.tokens:
            self.budget.learn(each)
        return Step(DraftTree((context[-1],)), verdict, text, asked - began + ended - evaluated, evaluated - asked, count)
