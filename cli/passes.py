"""What passes and answers take, measured: parts of `specexec bench --shape`."""

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from cli.bench import answer
from cli.session import AnswerOptions, Session
from offload.predict import Prediction
from specexec.engines.tree_engine import TreeEngine
from specexec.prefix import common
from specexec.tree import ROOT, DraftTree

PROMPT, ROUNDS = 32, 3


@dataclass(frozen=True)
class Pass:
    """Of n tokens: the median of several, and what it must take at the least."""

    n: int
    seconds: float
    waited: float  # of these, for weights
    floor: Prediction

    def figures(self) -> dict[str, Any]:
        return {"n": self.n, "seconds": self.seconds, "stream_seconds": self.floor.stream, "limit": self.floor.limit,
                "arithmetic_seconds": self.floor.arithmetic, "share_of_floor": self.floor.seconds / self.seconds}


def passes(engine: TreeEngine, counts: Sequence[int], before: Callable[[], None]) -> Iterator[Pass]:
    """In turns; each streams what streams once. before: called at each turn, when nothing is read ahead.

    A pass that is not timed follows it, since the first one would find nothing read ahead.
    """
    context = [*range(1, PROMPT + 1)]
    took: dict[int, list[tuple[float, float]]] = {n: [] for n in counts}
    for _ in range(ROUNDS):
        before()
        _pass(engine, context, 1)
        for n in counts:
            took[n].append(_pass(engine, context, n))
    for n, each in took.items():
        seconds, waited = (statistics.median(column) for column in zip(*each, strict=True))
        yield Pass(n, seconds, waited, Prediction(0, 0))


def _pass(engine: TreeEngine, context: Sequence[int], n: int) -> tuple[float, float]:
    """One chain below the context: its seconds, and of these what it waited."""
    tree = DraftTree((context[-1], *range(100, 99 + n)), tuple(range(ROOT, n - 1)), (0.0,) * n, ("root",) * n)
    began, waited = time.perf_counter(), engine.waited
    engine.sync(context[:-1])
    engine.forward(tree, lambda first, logits: None)
    return time.perf_counter() - began, engine.waited - waited


@dataclass(frozen=True)
class Arm:
    """What one way of drafting did. ids, margins: of each answer; tokens: that its passes brought, the last one's whole."""

    ids: list[list[int]]
    margins: list[list[float]]
    seconds: float
    tokens: int
    passes: int
    drafted: int
    draft_seconds: float
    streamed: int

    def figures(self, roofline: float) -> dict[str, float]:
        """roofline: seconds in which what streams can be read."""
        return {"share_of_roofline": roofline * self.passes / self.seconds,
                "tokens_per_second": self.tokens / self.seconds, "tokens_per_pass": self.tokens / self.passes,
                "drafted": self.drafted / self.passes, "pass_seconds": self.seconds / self.passes,
                "draft_seconds": self.draft_seconds / self.passes,
                "streamed_bytes": self.streamed / self.passes, "bytes_per_second": self.streamed / self.seconds}

    def agrees(self, other: "Arm") -> int:
        """How many tokens of each answer are the same before the first that is not, together."""
        return sum(common(a, b) for a, b in zip(self.ids, other.ids, strict=True))

    def parting(self, other: "Arm") -> list[float]:
        """By how much this one's token was the better one, in logits, where an answer is first another one."""
        at = [common(a, b) for a, b in zip(self.ids, other.ids, strict=True)]
        return [margins[i] for margins, ids, i in zip(self.margins, self.ids, at, strict=True) if i < len(ids)]


def arm(session: Session, chosen: AnswerOptions, texts: Sequence[str]) -> Arm:
    """Answers to every text."""
    runs = [answer(session, chosen, text) for text in texts]
    reports = [run["report"] for run in runs]
    return Arm([run["ids"] for run in runs], [report.margins for report in reports],
               sum(run["seconds"] for run in runs), sum(r.tokens for r in reports),
               sum(r.passes for r in reports), sum(r.drafted for r in reports),
               sum(r.draft_seconds for r in reports), sum(run["streamed"] for run in runs))
