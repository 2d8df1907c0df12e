"""What drafting over a view brings a model that recalls: a part of benchmark long_context.

A model made by hand repeats a passage from deep in its prompt, plainly and drafting for itself over a view, in turns.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from specexec.answer import Answer, Endings
from specexec.budget import Auto, Fixed
from specexec.decode import decode
from specexec.drafters.grow import Grow, Nothing
from specexec.drafters.same import Same
from specexec.engines.kernel_engine import KernelEngine
from specexec.kv.choice import Gather
from specexec.kv.retrieval import BlockGathering
from specexec.noise import Noise
from specexec.roles import Budget, Drafter
from specexec.sampling import Sampling
from tests import quantised, recall
from tests.benchmarks.budget import interval
from tests.benchmarks.tier_passes import RETRIEVAL, WINDOW
from tests.benchmarks.view_knowledge import blocks
from tests.specexec.test_decode import Letters

LAYERS = 24  # all but two do nothing, but that their keys and values are read: more of them than a processor keeps
PASSAGE, BUDGET, WARM = 104, 64, 2  # tokens; nodes of a tree at the most; answers that only teach


@dataclass(frozen=True)
class Recalled:
    """Seconds of decoding alone. ratio: plain decoding's over these, the median of pairs, and 95 % of their mean."""

    drafts: str
    context: int
    tokens_per_second: float
    tokens_per_pass: float
    ratio: float
    interval: list[float]
    same_text: bool


def recalled(chosen: argparse.Namespace) -> list[Recalled]:
    with tempfile.TemporaryDirectory() as folder:
        engine = quantised.engine(recall.save(Path(folder), LAYERS), "int8", 16, vocabulary=recall.VOCABULARY)
    cells = []
    for context in chosen.recall:
        prompt, fact = recall.text(context, PASSAGE)
        views = {"plain": None, "retrieval": RETRIEVAL, "window": WINDOW}
        drafters = {name: drafting(engine, of) if of else (Nothing(), Fixed(0)) for name, of in views.items()}
        runs: dict[str, list[tuple[float, int, list[int]]]] = {name: [] for name in drafters}
        for number in range(chosen.pairs + WARM):
            for name in sorted(drafters, reverse=bool(number % 2)):
                runs[name].append(repeated(engine, *drafters[name], prompt, len(fact)))
        cells += [of_runs(name, context, runs[name][WARM:], runs["plain"][WARM:]) for name in runs]
    return cells


def drafting(engine: KernelEngine, of: Gather) -> tuple[Drafter, Budget]:
    return Grow([Same(engine, BlockGathering(blocks(engine), of))], engine.limits.context), Auto(BUDGET)


def repeated(
    engine: KernelEngine, drafter: Drafter, budget: Budget, prompt: Sequence[int], tokens: int
) -> tuple[float, int, list[int]]:
    """(seconds, passes, ids) of an answer but for its first pass, which reads the prompt."""
    answer = Answer(Letters(), prompt, Endings(frozenset(), 2**30, max_tokens=tokens))
    noise = Noise(0, 0, len(prompt), recall.VOCABULARY, silent=True)
    steps = decode(engine, drafter, budget, Sampling(0.0), noise, prompt, answer)
    next(steps)
    began = time.perf_counter()
    passes = len(list(steps))
    return time.perf_counter() - began, passes, answer.ids


def of_runs(name: str, context: int, own: Sequence[tuple[float, int, list[int]]], plain: Sequence[Any]) -> Recalled:
    ratios = [its[0] / run[0] for run, its in zip(own, plain, strict=True)]
    tokens = len(own) * (len(own[0][2]) - 1)
    return Recalled(name, context, tokens / sum(run[0] for run in own), tokens / sum(run[1] for run in own),
                    statistics.median(ratios), interval(ratios), all(run[2] == plain[0][2] for run in own))


def recalled_table(cells: Sequence[Recalled]) -> str:
    lines = ["| draft's view | context | tokens/s | tokens a pass | over plain (95 %) | same text |",
             "|---|---:|---:|---:|---:|---|"]
    for c in cells:
        lines.append(f"| {c.drafts} | {c.context:,} | {c.tokens_per_second:.1f} | {c.tokens_per_pass:.2f} "
                     f"| {c.ratio:.2f} ({c.interval[0]:.2f} to {c.interval[1]:.2f}) | {'yes' if c.same_text else 'NO'} |")
    return "\n".join(lines)
