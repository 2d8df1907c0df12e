"""`--budget auto` on machines that are played: the bundled pair decides and writes, a clock takes what others' passes take.

    python -m tests.benchmarks.played [70b 8b resident bus] [--budget NODES] [-T TEMPERATURE] [--answers 45] [--alone]

Every `group` of answers begins with a budget and a growth that know nothing. Decisions are those of the real thing, only
seconds are not; so it takes seconds, and its figures hardly any noise of the machine it runs on.
"""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from types import SimpleNamespace

import numpy as np

import specexec.decode
from cli.bench import PROMPTS, answer
from cli.build import fresh, open_session
from cli.interrupt import Interrupt
from cli.models import ModelOptions
from cli.session import AnswerOptions, Session
from specexec.drafters import cascade, crew, grow, tier
from specexec.drafters.grow import Grow
from specexec.drafters.model import ModelExpander
from specexec.drafters.tier import Tier
from specexec.engines.tree_engine import TreeEngine
from specexec.roles import Reader
from specexec.sampling import Sampling
from specexec.tree import DraftTree
from tests.benchmarks.budget import again
from tests.conftest import SHARED
from tests.test_losslessness import prompts

LOOKED_AT = 2e-5  # seconds that pass whenever somebody looks at the clock


@dataclass(frozen=True)
class Played:
    """floor: seconds in which a pass's weights arrive. work, draft: seconds of computing so many tokens."""

    floor: float
    work: Callable[[int], float]
    draft: Callable[[int], float]


def shaped_draft(tokens: int) -> float:
    """A 1B shape on two cores."""
    return 0.03 * float(np.interp(tokens, [1, 4, 8, 16, 32, 64], [1, 1.16, 1.77, 3.5, 6.9, 13.5]))


MACHINES = {
    "70b": Played(9.4, lambda n: 0.95 + 0.286 * n, shaped_draft),
    "8b": Played(1.5, lambda n: 0.25 + 0.0305 * n, shaped_draft),
    "resident": Played(0.0, lambda n: 0.2 * max(1.0, 0.3 + 0.11 * n), shaped_draft),
    "bus": Played(0.0, lambda n: max(1.5, 0.0008 * n), lambda n: 0.004 * max(1.0, n / 128)),  # waits that nobody can tell
}


class Clock:
    def __init__(self) -> None:
        self.now = self.waited = 0.0

    def perf_counter(self) -> float:
        self.now += LOOKED_AT
        return self.now

    def take(self, work: float, floor: float) -> None:
        self.now += max(work, floor)
        self.waited += max(0.0, floor - work)


def played(engine: TreeEngine, clock: Clock, work: Callable[[int], float], floor: float = 0.0) -> None:
    """Its passes take time of the clock's."""
    real = engine.forward

    def forward(tree: DraftTree, reader: Reader, first: int = 0) -> None:
        tokens = engine.missing + len(tree) - first
        real(tree, reader, first)
        clock.take(work(tokens), floor)

    engine.forward = forward  # type: ignore[method-assign]


def rates(session: Session, chosen: argparse.Namespace, texts: Sequence[str], clock: Clock) -> np.ndarray:
    """[answers, 5] of tokens, passes, seconds, nodes, seconds of drafting."""
    rows, options = [], AnswerOptions(Sampling(temperature=chosen.temperature), 0, chosen.budget, chosen.tokens)
    for number, text in enumerate(texts):
        if number % chosen.group == 0:
            ours = replace(session, drafter=again(session.drafter, None), auto=fresh(session.target))
        began = clock.now
        report = answer(ours, options, text)["report"]
        rows.append((report.tokens, report.passes, clock.now - began, report.drafted, report.draft_seconds))
    return np.array(rows)


def run(name: str, chosen: argparse.Namespace, texts: Sequence[str]) -> str:
    machine, clock = MACHINES[name], Clock()
    time = SimpleNamespace(perf_counter=clock.perf_counter)
    for module in (specexec.decode, cascade, crew, grow, tier):
        module.time = time  # type: ignore[attr-defined]
    TreeEngine.waited = property(lambda engine: clock.waited)  # type: ignore[method-assign, assignment]
    session = open_session(ModelOptions(context=1024, quant="nf4"), Interrupt())
    played(session.target, clock, machine.work, machine.floor)
    assert isinstance(session.drafter, Grow)
    for one in session.drafter.expanders:
        if isinstance(one, ModelExpander):
            assert isinstance(one.engine, TreeEngine)
            played(one.engine, clock, machine.draft)
        if isinstance(one, Tier) and chosen.alone:
            one.cascade = None
    tokens, passes, seconds, nodes, drafting = (found := rates(session, chosen, texts, clock)).sum(0)
    error = (found[:, 0] / found[:, 2]).std() / len(found) ** 0.5
    return (f"| {name} | {tokens / seconds:.3f} ± {error:.3f} | {tokens / passes:.2f} | {nodes / passes:.1f} "
            f"| {seconds / passes:.2f} | {drafting / passes:.2f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("machines", nargs="*", default=list(MACHINES))
    parser.add_argument("--budget", type=int)
    parser.add_argument("-T", "--temperature", type=float, default=0.0)
    parser.add_argument("--answers", type=int, default=45)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--alone", action="store_true", help="what looks texts up does not draft for the draft")
    parser.add_argument("--group", type=int, default=3)
    chosen = parser.parse_args()
    texts = [*PROMPTS, *prompts(SHARED)][: chosen.answers]
    print("| machine | tokens/s | tokens a pass | nodes a pass | s a pass | of it drafting |\n|---|---:|---:|---:|---:|---:|")
    for name in chosen.machines:
        print(run(name, chosen, texts), flush=True)


if __name__ == "__main__":
    main()
