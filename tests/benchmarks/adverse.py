"""`--budget auto` where drafting does not pay, beside plain decoding, by turns:

    python -m tests.benchmarks.adverse [-m MODEL] [--ram SIZE] [--cases random stranger code busy] [--answers 24]

random: tokens drawn by lot. stranger: a model of the draft's size that never learnt anything. code: after stories, programs.
busy: another process computes on every core. The first answers only teach. A table, and one line of JSON, which comes last.
"""

import argparse
import json
import multiprocessing
import os
import statistics
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from cli.bench import PROMPTS, answer, machine, read_prompts
from cli.build import fresh, open_session
from cli.interrupt import Interrupt
from cli.models import ModelOptions
from cli.session import AnswerOptions, Session
from cli.values import Size
from specexec.drafters.grow import Nothing
from specexec.sampling import Sampling
from tests.benchmarks.budget import interval, rate
from tests.benchmarks.pair import BUNDLED, ROOT

PROGRAMS = ROOT.parent / "shared" / "data" / "prompts" / "humaneval_dev.jsonl"
DRAFTS = {"random": "random", "stranger": "stranger", "code": "auto", "busy": "auto"}
LONGEST = 300  # characters of a prompt
HEAD = """| case | auto / plain (95 %) | outside the target | plain | nodes a pass | plain pass, ms | same text |
|---|---:|---:|---:|---:|---:|---|"""


def stranger(folder: Path) -> Path:
    """The bundled draft's shape and tokens, its weights drawn by lot."""
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(BUNDLED / "draft")).save_pretrained(folder)
    AutoTokenizer.from_pretrained(BUNDLED / "draft").save_pretrained(folder)
    return folder


def _spin() -> None:
    while True:
        pass


@contextmanager
def busy(really: bool) -> Iterator[None]:
    """Every core computes something else meanwhile."""
    started = multiprocessing.get_context("spawn")
    others = [started.Process(target=_spin, daemon=True) for _ in range(really * (os.cpu_count() or 1))]
    for other in others:
        other.start()
    try:
        yield
    finally:
        for other in others:
            other.kill()


def prompts(case: str, count: int, warmup: int) -> list[str]:
    programs = [text[:LONGEST] for text in read_prompts(PROGRAMS)] if case == "code" else list(PROMPTS)
    stories = [PROMPTS[i % len(PROMPTS)] for i in range(warmup)]
    return [*stories, *(programs[i % len(programs)] for i in range(count))]


def outside(run: dict[str, Any]) -> float:
    """The share of an answer's time that no pass of the target takes."""
    return float(1 - run["report"].target_seconds / run["seconds"])


def measured(case: str, session: Session, chosen: argparse.Namespace) -> dict[str, Any]:
    plain = replace(session, drafter=Nothing(), auto=fresh(session.target))
    options = AnswerOptions(Sampling(temperature=chosen.temperature), 0, None, chosen.tokens)
    runs: dict[str, list[dict[str, Any]]] = {"auto": [], "plain": []}
    arms = {"auto": session, "plain": plain}
    for number, text in enumerate(prompts(case, chosen.answers, chosen.warmup)):
        for name in sorted(arms, reverse=bool(number % 2)):
            runs[name].append(answer(arms[name], options, text, number))
    auto, beside = runs["auto"][chosen.warmup :], runs["plain"][chosen.warmup :]
    ratios = [rate(ours) / rate(its) for ours, its in zip(auto, beside, strict=True)]
    low, high = interval(ratios)
    reports = [run["report"] for run in auto]
    return {"case": case, "ratio": statistics.fmean(ratios), "low": low, "high": high,
            "outside": statistics.fmean(map(outside, auto)), "plain_outside": statistics.fmean(map(outside, beside)),
            "nodes": sum(r.drafted for r in reports) / sum(r.passes for r in reports),
            "pass_seconds": sum(run["seconds"] for run in beside) / sum(run["report"].passes for run in beside),
            "same_text": all(a["ids"] == b["ids"] for a, b in zip(*runs.values(), strict=True))}


def line(row: dict[str, Any]) -> str:
    return (f"| {row['case']} | {row['ratio']:.3f} ({row['low']:.3f} to {row['high']:.3f}) | {row['outside']:.1%} "
            f"| {row['plain_outside']:.1%} | {row['nodes']:.2f} | {row['pass_seconds'] * 1e3:.2f} "
            f"| {'yes' if row['same_text'] else 'NO'} |")


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-m", "--model", default="bundled")
    parser.add_argument("--ram", type=lambda text: Size().convert(text, None, None))
    parser.add_argument("--ctx-size", type=int, default=1024)
    parser.add_argument("--cases", nargs="+", choices=list(DRAFTS), default=list(DRAFTS))
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--answers", type=int, default=24)
    parser.add_argument("--warmup", type=int, default=4)
    return parser.parse_args()


def main() -> None:
    chosen, rows = options(), []
    print(HEAD)
    with tempfile.TemporaryDirectory() as folder:
        for case in chosen.cases:
            draft = str(stranger(Path(folder))) if case == "stranger" else DRAFTS[case]
            model = ModelOptions(chosen.model, (draft,), context=chosen.ctx_size, ram=chosen.ram)
            with busy(case == "busy"), closing(open_session(model, Interrupt())) as session:
                rows.append(row := measured(case, session, chosen))
            print(line(row), flush=True)
    print(json.dumps({"machine": machine(), "rows": rows, "chosen": vars(chosen)}))


if __name__ == "__main__":
    main()
