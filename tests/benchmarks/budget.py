"""`--budget auto` beside fixed budgets, by turns, in one run:

    python -m tests.benchmarks.budget [-m MODEL] [--draft NAME] [--ram SIZE] [--budgets 0 4 8 16 32 64] [--apart]

--apart: beside them, auto that drafts nothing ahead while passes wait for the disk. A markdown table and one line of JSON,
which comes last. Every budget has its own growth, and knows nothing when it starts; the first answers only teach it.
"""

import argparse
import json
import statistics
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

from cli.bench import PROMPTS, answer, machine
from cli.build import fresh, open_session
from cli.interrupt import Interrupt
from cli.models import ModelOptions
from cli.session import AnswerOptions, Session
from cli.values import Size
from specexec.budget import Auto
from specexec.drafters.cascade import Cascade
from specexec.drafters.grow import Grow, Nothing
from specexec.drafters.growing import Expander
from specexec.drafters.model import ModelExpander
from specexec.drafters.tier import Tier
from specexec.drafters.wild import Wild
from specexec.roles import Drafter, Idle
from specexec.sampling import Sampling

AUTO, APART = -1, -2


@dataclass(frozen=True)
class Arm:
    budget: int
    session: Session
    options: AnswerOptions

    @property
    def name(self) -> str:
        return {AUTO: "auto", APART: "auto, nothing ahead"}.get(self.budget, str(self.budget))

    def answer(self, text: str, number: int) -> dict[str, Any]:
        return answer(self.session, self.options, text, number)


def again(drafter: Drafter, idle: Idle | None) -> Grow:
    """One that has learnt nothing, over the same models."""
    assert isinstance(drafter, Grow)
    return Grow([*map(_unlearnt, drafter.expanders)], drafter.context, idle)


def _unlearnt(one: Expander) -> Expander:
    if isinstance(one, Tier):
        return Tier(one.engine, one.vocabulary, one.cascade and _below(one.cascade))
    if isinstance(one, ModelExpander):
        return ModelExpander(one.engine, one.vocabulary)
    return Wild(one.vocabulary) if isinstance(one, Wild) else type(one)()


def _below(cascade: Cascade) -> Cascade:
    assert isinstance(cascade.budget, Auto)
    return Cascade(again(cascade.drafter, None), Auto(cascade.budget.most, cascade.budget.least))


def arms(chosen: argparse.Namespace, session: Session) -> list[Arm]:
    sampling = Sampling(temperature=chosen.temperature)
    found = []
    idle = session.drafter.idle if isinstance(session.drafter, Grow) else None
    for budget in (AUTO, *[APART] * chosen.apart, *chosen.budgets):
        drafter = again(session.drafter, None if budget == APART else idle) if budget else Nothing()
        own = replace(session, drafter=drafter, auto=fresh(session.target))
        found.append(Arm(budget, own, AnswerOptions(sampling, 0, None if budget < 0 else budget, chosen.tokens)))
    return found


def rounds(of: Sequence[Arm], chosen: argparse.Namespace) -> dict[str, list[dict[str, Any]]]:
    """Answers of each arm, who take turns to go first."""
    runs: dict[str, list[dict[str, Any]]] = {arm.name: [] for arm in of}
    texts = PROMPTS * chosen.rounds
    for number, text in enumerate(texts):
        for shift in range(len(of)):
            arm = of[(number + shift) % len(of)]
            runs[arm.name].append(arm.answer(text, number // len(PROMPTS)))
    return {name: made[chosen.warmup :] for name, made in runs.items()}


def row(name: str, runs: Sequence[dict[str, Any]], auto: Sequence[dict[str, Any]]) -> dict[str, Any]:
    reports = [run["report"] for run in runs]
    passes, tokens, seconds = (sum(column) for column in zip(*((r.passes, r.tokens, run["seconds"])
                                                               for r, run in zip(reports, runs, strict=True)), strict=True))
    ratios = [rate(ours) / rate(its) for ours, its in zip(auto, runs, strict=True)]
    return {"budget": name, "tokens_per_second": tokens / seconds, "tokens_per_pass": tokens / passes,
            "nodes": sum(r.drafted for r in reports) / passes, "pass_seconds": seconds / passes,
            "outside": sum(r.draft_seconds for r in reports) / seconds, "auto_over_it": statistics.median(ratios),
            "interval": interval(ratios)}


def rate(run: dict[str, Any]) -> float:
    return float(run["report"].tokens / run["seconds"])


def interval(ratios: Sequence[float]) -> list[float]:
    """95 % of the mean of paired ratios."""
    if len(ratios) < 2:
        return [0.0, float("inf")]
    half = 1.96 * statistics.stdev(ratios) / len(ratios) ** 0.5
    return [statistics.fmean(ratios) - half, statistics.fmean(ratios) + half]


def table(rows: Sequence[dict[str, Any]]) -> str:
    lines = ["| budget | tokens/s | auto over it (95 %) | tokens a pass | nodes a pass | ms a pass | outside the target |",
             "|---:|---:|---:|---:|---:|---:|---:|"]
    for one in rows:
        low, high = one["interval"]
        lines.append(f"| {one['budget']} | {one['tokens_per_second']:.2f} "
                     f"| {one['auto_over_it']:.3f} ({low:.3f} to {high:.3f}) "
                     f"| {one['tokens_per_pass']:.2f} | {one['nodes']:.1f} | {one['pass_seconds'] * 1e3:.1f} "
                     f"| {one['outside']:.1%} |")
    return "\n".join(lines)


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-m", "--model", default="bundled")
    parser.add_argument("--draft", nargs="+", default=["auto"])
    parser.add_argument("--ram", type=lambda text: Size().convert(text, None, None))
    parser.add_argument("--ctx-size", type=int, default=1024)
    parser.add_argument("--quant")
    parser.add_argument("--budgets", type=int, nargs="*", default=[0, 4, 8, 16, 32, 64])
    parser.add_argument("--apart", action="store_true")
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3, help="over all prompts")
    parser.add_argument("--warmup", type=int, default=3, help="answers of each arm that are not counted")
    return parser.parse_args()


def main() -> None:
    chosen = options()
    model = ModelOptions(chosen.model, tuple(chosen.draft), context=chosen.ctx_size, ram=chosen.ram, quant=chosen.quant)
    with closing(open_session(model, Interrupt())) as session:
        runs = rounds(arms(chosen, session), chosen)
    rows = [row(name, made, runs["auto"]) for name, made in runs.items()]
    print(table(rows))
    if chosen.budgets:
        best = max(one["tokens_per_second"] for one in rows if one["budget"].isdecimal())
        print(f"auto reaches {rows[0]['tokens_per_second'] / best:.3f} of the best fixed budget")
    same = all(run["ids"] == first["ids"] for made in runs.values() for run, first in zip(made, runs["auto"], strict=True))
    print(json.dumps({"machine": machine(), "rows": rows, "same_text": same, "chosen": vars(chosen)}))


if __name__ == "__main__":
    main()
