"""Tokens a pass of four exact rules on a real pair, by budget and temperature:

    python -m tests.benchmarks.rules

A markdown table a temperature (tokens a pass, standard error over stories, passes) and one line of JSON, which comes last.
"""

import argparse
import json
import math
import platform
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

from tests.benchmarks.chain import Chain
from tests.benchmarks.likeliest import Likeliest
from tests.benchmarks.pair import Pair, add_options, load
from tests.benchmarks.rule import Rule
from tests.benchmarks.shared_noise import SharedNoise
from tests.benchmarks.without_replacement import WithoutReplacement

RULES: dict[str, type[Rule]] = {
    "shared noise": SharedNoise,
    "SpecExec": Likeliest,
    "without replacement": WithoutReplacement,
    "chain": Chain,
}
BUDGETS = tuple(2**i for i in range(10))
TEMPERATURES = (0.0, 0.6, 1.0)


@dataclass(frozen=True)
class Cell:
    """One rule at one budget and temperature. standard_error: of tokens_per_pass, passes of a story taken together."""

    rule: str
    temperature: float
    budget: int
    tokens_per_pass: float
    standard_error: float
    passes: int
    tokens: int

    def __str__(self) -> str:
        return f"{self.tokens_per_pass:.2f} ± {self.standard_error:.2f} ({self.passes})"


def write(rule: Rule, prompt: Sequence[int], number: int, length: int, eos: frozenset[int]) -> tuple[int, int]:
    """(tokens, passes) of one answer. The last pass counts whole: by Wald's identity the ratio then has no bias."""
    rule.begin(prompt, number)
    context, passes = list(prompt), 0
    while len(context) < len(prompt) + length and eos.isdisjoint(context[len(prompt) :]):
        context += rule.advance(context)
        passes += 1
    return len(context) - len(prompt), passes


def ratio(stories: Sequence[tuple[int, int]]) -> tuple[float, float]:
    """(tokens a pass, its standard error) of (tokens, passes) a story: the linearised ratio of two sums."""
    tokens, passes = (sum(column) for column in zip(*stories, strict=True))
    mean, count = tokens / passes, len(stories)
    if count < 2:
        return mean, math.nan
    spread = sum((t - mean * p) ** 2 for t, p in stories)
    return mean, math.sqrt(count / (count - 1) * spread) / passes


@dataclass(frozen=True)
class Comparison:
    """A pair and the openings below which every rule writes."""

    pair: Pair
    prompts: Sequence[Sequence[int]]
    chosen: argparse.Namespace

    def cell(self, name: str, budget: int, temperature: float) -> Cell:
        """Every story once; what a rule learns it keeps from story to story, and the first ones only teach it."""
        rule, length = RULES[name](self.pair, budget, temperature, self.chosen.seed), self.chosen.tokens
        written = [write(rule, prompt, number, length, self.pair.eos) for number, prompt in enumerate(self.prompts)]
        stories = written[self.chosen.warmup :]
        tokens, passes = (sum(column) for column in zip(*stories, strict=True))
        return Cell(name, temperature, budget, *ratio(stories), passes, tokens)

    def row(self, budget: int, temperature: float) -> list[Cell]:
        """A cell a rule. At temperature 0 sampling without replacement is greedy matching on the likeliest tree: SpecExec's."""
        cells: dict[str, Cell] = {}
        for name in self.chosen.rules:
            if name == "without replacement" and temperature == 0 and "SpecExec" in cells:
                cells[name] = replace(cells["SpecExec"], rule=name)
            else:
                cells[name] = self.cell(name, budget, temperature)
            print(f"T {temperature} budget {budget} {name}: {cells[name]}", file=sys.stderr)
        return list(cells.values())


def table(cells: Sequence[Cell], names: Sequence[str], temperature: float) -> str:
    lines = [f"\nT = {temperature:g}: tokens a pass ± standard error (passes)\n", "| nodes | " + " | ".join(names) + " |"]
    lines.append("|---:|" + "---:|" * len(names))
    for budget in sorted({cell.budget for cell in cells}):
        shown = [str(cell) for cell in cells if (cell.budget, cell.temperature) == (budget, temperature)]
        lines.append(f"| {budget} | " + " | ".join(shown) + " |")
    return "\n".join(lines)


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser, stories=7, tokens=64)
    parser.add_argument("--warmup", type=int, default=1, help="stories that are written first and not counted")
    parser.add_argument("--budgets", type=int, nargs="+", default=BUDGETS, help="nodes of a tree, its root not counted")
    parser.add_argument("--temperatures", type=float, nargs="+", default=TEMPERATURES)
    parser.add_argument("--rules", nargs="+", choices=list(RULES), default=list(RULES))
    return parser.parse_args()


def main() -> None:
    chosen = options()
    comparison = Comparison(*load(chosen), chosen)
    cells: list[Cell] = []
    for temperature in chosen.temperatures:
        for budget in chosen.budgets:
            cells += comparison.row(budget, temperature)
        print(table([c for c in cells if c.temperature == temperature], chosen.rules, temperature), flush=True)
    machine = {"processor": platform.machine(), "threads": chosen.threads, "python": platform.python_version()}
    counted = chosen.stories - chosen.warmup
    print(json.dumps({"machine": machine, "seed": chosen.seed, "stories": counted, "cells": [asdict(c) for c in cells]}))


if __name__ == "__main__":
    main()
