"""Markdown of measured cells."""

import math
from collections.abc import Callable, Iterator, Sequence

from tests.benchmarks.lab.cell import Cell
from tests.benchmarks.lab.measure import OURS
from tests.benchmarks.lab.profiles import PROFILES

BEHIND = -2.0  # standard errors


def tables(cells: Sequence[Cell], rules: Sequence[str]) -> Iterator[str]:
    """Tokens a pass and tokens a modelled second of every pair and temperature, then how ours compares."""
    for pair in dict.fromkeys(cell.pair for cell in cells):
        here = [cell for cell in cells if cell.pair == pair]
        for temperature in sorted({cell.temperature for cell in here}):
            some = [cell for cell in here if cell.temperature == temperature]
            yield f"\n**{pair}, T = {temperature:g}**: tokens a pass ± standard error (sequential draft passes)\n"
            yield from _head("nodes", rules)
            yield from _rows(some, rules, "", _tokens)
            yield "\nTokens a modelled second\n"
            yield from _head("machine, nodes", rules)
            for profile in PROFILES:
                yield from _rows(some, rules, f"{profile.name}, ", lambda c, p=profile: f"{c.tokens_per_second(p):.2f}")  # type: ignore[misc]
        yield from comparison(here)


def _tokens(cell: Cell) -> str:
    return f"{cell.tokens_per_pass:.2f} ± {cell.standard_error:.2f} ({cell.draft_passes:.0f})"


def comparison(cells: Sequence[Cell]) -> Iterator[str]:
    """Ours against the others, cells of one pair."""
    rest = [cell for cell in cells if cell.rule != OURS]
    for temperature in sorted({cell.temperature for cell in cells}):
        ours = [cell for cell in cells if (cell.rule, cell.temperature) == (OURS, temperature)]
        ratios = [ratio for ratio in (_ratio(cell, rest) for cell in ours) if ratio]
        if ratios:
            mean = math.exp(sum(map(math.log, ratios)) / len(ratios))
            yield f"\nT = {temperature:g}: ours over the best published rule, geometric mean of {len(ratios)} cells: {mean:.3f}"
    yield from (line for cell in cells if cell.rule == OURS for line in _behind(cell, rest))


def _ratio(ours: Cell, rest: Sequence[Cell]) -> float | None:
    """To the best other rule of the cell; None where nothing else was measured."""
    others = [cell.tokens_per_pass for cell in rest if _place(cell) == _place(ours)]
    return ours.tokens_per_pass / max(others) if others else None


def _behind(ours: Cell, rest: Sequence[Cell]) -> Iterator[str]:
    for cell in rest:
        if _place(cell) == _place(ours) and (lead := ours.lead(cell)) < BEHIND:
            yield f"\nBelow {cell.rule} at T = {cell.temperature:g}, {cell.budget} nodes: {lead:.1f} standard errors"


def _place(cell: Cell) -> tuple[str, float, int]:
    return cell.pair, cell.temperature, cell.budget


def _head(first: str, rules: Sequence[str]) -> Iterator[str]:
    yield f"| {first} | " + " | ".join(rules) + " |"
    yield "|---:|" + "---:|" * len(rules)


def _rows(cells: Sequence[Cell], rules: Sequence[str], label: str, show: Callable[[Cell], str]) -> Iterator[str]:
    found = {(cell.budget, cell.rule): show(cell) for cell in cells}
    for budget in sorted({cell.budget for cell in cells}):
        yield f"| {label}{budget:,} | " + " | ".join(found.get((budget, rule), "") for rule in rules) + " |"
