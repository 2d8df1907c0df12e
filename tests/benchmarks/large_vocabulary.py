"""Milliseconds of our own code around a vocabulary of 152K ids: growth, verification with harvest, noise:

    python -m tests.benchmarks.large_vocabulary

The engines are fakes whose rows exist already. The floor is the bytes of logits read over the memory bandwidth measured in the
same run. A markdown table; one line of JSON comes last. --profile shows where the time goes instead.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TypeVar

import torch

from specexec.drafters.grow import Grow
from specexec.drafters.model import ModelExpander
from specexec.engines.tree_engine import rows_read
from specexec.noise import Noise, gumbel
from specexec.roles import Worth
from specexec.sampling import Penalties, Sampling
from specexec.verify import Picks, verify
from specexec.vocabulary import Vocabulary
from tests.benchmarks.fake import Fake, logits

SAMPLINGS = {"T = 0": Sampling(temperature=0.0), "T = 0.8, top-p 0.95": Sampling(temperature=0.8, top_p=0.95)}
PROMPT, NOISY = 100, 0.5
PART = tuple[float, int]  # (seconds, bytes of logits read)
Done = TypeVar("Done")


@dataclass(frozen=True)
class Cell:
    """Medians over passes, milliseconds; floors: the bytes of logits that part read at the measured bandwidth."""

    sampling: str
    budget: int
    growth_ms: float
    growth_floor_ms: float
    verify_ms: float
    verify_floor_ms: float
    learn_ms: float
    tokens_per_pass: float


class Passes:
    """Passes over an endless answer. The noise is fresh at each, so that its cost is seen apart."""

    def __init__(self, sampling: Sampling, budget: int, target: Fake, draft: Fake) -> None:
        self.sampling, self.worth, self.target, self.draft = sampling, Worth(budget), target, draft
        self.drafter = Grow([ModelExpander(self.draft, Vocabulary(None))], self.target.limits.context)
        self.noise = Noise(0, 0, PROMPT, target.limits.vocabulary, sampling.temperature == 0)
        self.context = list(range(PROMPT))

    def advance(self) -> tuple[PART, PART, PART, int]:
        """(growth, verification, learning, tokens) of one pass."""
        for position in range(len(self.context), len(self.context) + 40):
            self.noise.at(position)
        penalties = Penalties(self.sampling, self.context[:PROMPT], self.context[PROMPT:])
        tree, growth = _timed(self.draft, lambda: self.drafter.draft(self.context, self.worth, self.sampling, self.noise))
        picks = Picks(tree, len(self.context) - 1, self.sampling, self.noise, penalties)
        self.target.sync(self.context[:-1])
        _, reading = _timed(self.target, lambda: self.target.forward(tree, picks))
        verdict, following = _timed(self.target, lambda: verify(tree, picks))
        _, learning = _timed(self.target, lambda: self.drafter.learn(tree, picks, verdict))
        self.context += verdict.tokens
        return growth, (reading[0] + following[0], reading[1]), learning, len(verdict.tokens)


def _timed(engine: Fake, work: Callable[[], Done]) -> tuple[Done, PART]:
    """(what `work` returns, its seconds without the engine's and the bytes it read)."""
    pretended, read, began = engine.seconds, engine.read, time.perf_counter()
    done = work()
    return done, (time.perf_counter() - began - (engine.seconds - pretended), engine.read - read)


def bandwidth(block: torch.Tensor, times: int = 15) -> float:
    """Bytes a second of the fastest of a few plain reductions over `block`, which no cache holds."""
    def seconds() -> Iterator[float]:
        for _ in range(times):
            for reduce in (torch.sum, torch.amax):
                began = time.perf_counter()
                reduce(block)
                yield time.perf_counter() - began

    return block.nbytes / min(seconds())


def noise_ms(vocabulary: int, times: int = 15) -> float:
    """Median milliseconds of one position's noise."""
    def one(index: int) -> float:
        began = time.perf_counter()
        gumbel(0, 0, index, vocabulary)
        return time.perf_counter() - began

    return 1e3 * statistics.median(map(one, range(times)))


def measure(name: str, budget: int, engines: Sequence[Fake], speed: float, times: int) -> Cell:
    """Medians of `times` passes; the two before them are not counted."""
    passes = Passes(SAMPLINGS[name], budget, *engines)
    seen = [passes.advance() for _ in range(times + 2)][2:]
    growth, reading, learning, tokens = zip(*seen, strict=True)
    took = [1e3 * statistics.median(seconds for seconds, _ in part) for part in (growth, reading, learning)]
    floor = [1e3 * statistics.median(read for _, read in part) / speed for part in (growth, reading)]
    return Cell(name, budget, took[0], floor[0], took[1], floor[1], took[2], sum(tokens) / times)


def table(cells: Sequence[Cell]) -> str:
    lines = ["| sampling | nodes | growth ms | floor | verify + harvest ms | floor | learn ms | tokens a pass |"]
    lines.append("|---|---:|---:|---:|---:|---:|---:|---:|")
    for c in cells:
        figures = (c.growth_ms, c.growth_floor_ms, c.verify_ms, c.verify_floor_ms, c.learn_ms, c.tokens_per_pass)
        lines.append(f"| {c.sampling} | {c.budget:,} | " + " | ".join(f"{x:.1f}" for x in figures) + " |")
    return "\n".join(lines)


def profile(name: str, budget: int, engines: Sequence[Fake], times: int) -> None:
    """Prints what torch's operators and Python's functions take."""
    import cProfile
    import pstats

    passes = Passes(SAMPLINGS[name], budget, *engines)
    passes.advance()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as operators:
        for _ in range(times):
            passes.advance()
    print(operators.key_averages().table(sort_by="self_cpu_time_total", row_limit=16, max_name_column_width=40))
    with cProfile.Profile() as functions:
        for _ in range(times):
            passes.advance()
    pstats.Stats(functions, stream=sys.stdout).sort_stats("tottime").print_stats(25)


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vocabulary", type=int, default=151_936)
    parser.add_argument("--rows", type=int, default=128, help="distinct rows of logits, so that no cache holds them")
    parser.add_argument("--budgets", type=int, nargs="+", default=(64, 1024))
    parser.add_argument("--samplings", nargs="+", choices=list(SAMPLINGS), default=list(SAMPLINGS))
    parser.add_argument("--times", type=int, default=7, help="passes a cell")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--profile", action="store_true")
    return parser.parse_args()


def main() -> None:
    chosen = options()
    torch.set_num_threads(chosen.threads)
    target = logits(chosen.vocabulary, chosen.rows, seed=0)
    draft = target + NOISY * torch.randn(target.shape, generator=torch.Generator().manual_seed(1))
    block = rows_read(chosen.vocabulary)
    engines = Fake(target, block), Fake(draft, block)
    settings = [(name, budget) for name in chosen.samplings for budget in chosen.budgets]
    if chosen.profile:
        for name, budget in settings:
            print(f"\n{name}, {budget} nodes")
            profile(name, budget, engines, chosen.times)
        return
    speed = bandwidth(target)
    cells = [measure(name, budget, engines, speed, chosen.times) for name, budget in settings]
    gumbels = noise_ms(chosen.vocabulary)
    print(table(cells), f"\n\nnoise: {gumbels:.1f} ms a position; memory: {speed / 1e9:.1f} GB/s, {chosen.threads} threads")
    setting = {"vocabulary": chosen.vocabulary, "threads": chosen.threads, "block": block}
    measured = {"bytes_per_second": speed, "noise_ms": gumbels, "cells": [asdict(cell) for cell in cells]}
    print(json.dumps({**setting, **measured}))


if __name__ == "__main__":
    main()
