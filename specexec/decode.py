"""The decode loop: draft, forward, verify, until the answer ends."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from specexec.answer import Answer
from specexec.noise import Noise
from specexec.roles import Budget, Drafter, Engine, Pass
from specexec.sampling import Penalties, Sampling
from specexec.tree import DraftTree
from specexec.verify import Picks, Verdict, verify


@dataclass(frozen=True)
class Step:
    """One pass of the target."""

    tree: DraftTree
    verdict: Verdict
    text: str  # what it lets be shown
    draft_seconds: float
    target_seconds: float


def decode(
    target: Engine, drafter: Drafter, budget: Budget, sampling: Sampling, noise: Noise, prompt: Sequence[int], answer: Answer
) -> Iterator[Step]:
    """Writes `answer`, a step a pass. Its text depends on target, sampling, noise and prompt alone."""
    while answer.stop_reason is None:
        context = [*prompt, *answer.ids]
        began = time.perf_counter()
        target.sync(context[:-1])  # the last token is pending: it is the tree's root
        missing = target.missing
        worth = budget.worth(missing)
        tree = drafter.draft(context, worth, sampling, noise)
        drafted, waited = time.perf_counter(), target.waited
        picks = Picks(tree, len(context) - 1, sampling, noise, Penalties(sampling, prompt, answer.ids), worth.budget > 0)
        with drafter.meanwhile(tree):
            target.forward(tree, picks)
        verdict = verify(tree, picks)
        evaluated = time.perf_counter()
        drafter.learn(tree, picks, verdict)
        text, ended = answer.take(verdict.tokens), time.perf_counter()
        budget.learn(Pass(missing, len(tree), len(verdict.tokens), drafted - began, ended - drafted,
                          target.waited - waited))
        yield Step(tree, verdict, text, drafted - began + ended - evaluated, evaluated - drafted)
