"""Tokens a pass, and a modelled second, of tree-drafting rules at equal nodes on equal prompts:

    python -m tests.benchmarks.lab --results cells.jsonl

Cells that the file of results holds are not measured again, so a run may be stopped, or shared out among processes by
--pairs, --rules, --nodes and --temperatures. Markdown tables of all chosen cells; one line of JSON comes last.
"""

import argparse
import json
import platform
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from tests.benchmarks.lab.cell import Cell
from tests.benchmarks.lab.measure import RULES, Bench
from tests.benchmarks.lab.pairs import TARGETS, lacking, prepare
from tests.benchmarks.lab.tables import tables

NODES = (16, 64, 256, 1024)
TEMPERATURES = (0.0, 0.6, 1.0)


def setting(chosen: argparse.Namespace) -> dict[str, int]:
    """What makes cells comparable."""
    return {"stories": chosen.stories, "tokens": chosen.tokens, "lessons": chosen.lessons, "seed": chosen.seed}


def known(chosen: argparse.Namespace) -> list[Cell]:
    """Cells of an earlier run with the same setting."""
    if chosen.results is None or not chosen.results.exists():
        return []
    lines = [json.loads(line) for line in chosen.results.read_text(encoding="utf-8").splitlines()]
    return [_cell(line["cell"]) for line in lines if line["setting"] == setting(chosen)]


def _cell(found: dict[str, Any]) -> Cell:
    widths = {int(width): count for width, count in found.pop("widths").items()}
    return Cell(**found, widths=widths)


def keep(cell: Cell, chosen: argparse.Namespace) -> None:
    print(f"{cell.key}: {cell.tokens_per_pass:.2f} ± {cell.standard_error:.2f}, {cell.seconds:.0f} s", file=sys.stderr)
    if chosen.results is not None:
        with chosen.results.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps({"setting": setting(chosen), "cell": asdict(cell)}) + "\n")


def measured(name: str, chosen: argparse.Namespace, before: dict[tuple[str, str, float, int], Cell]) -> list[Cell]:
    """All chosen cells of a pair, those known before as they are."""
    prepared, cells = prepare(name, chosen), []
    for temperature in chosen.temperatures:
        bench = Bench(name, prepared, temperature, chosen.seed, chosen.tokens, {})
        for budget in chosen.nodes:
            for rule in chosen.rules:
                cell = before.get((name, rule, temperature, budget))
                if cell is None and not chosen.report:
                    cell = bench.cell(rule, budget)
                    keep(cell, chosen)
                cells += [cell] if cell else []
    return cells


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", nargs="+", choices=list(TARGETS), default=list(TARGETS))
    parser.add_argument("--rules", nargs="+", choices=list(RULES), default=list(RULES))
    parser.add_argument("--nodes", type=int, nargs="+", default=NODES, help="of a tree, its root not counted")
    parser.add_argument("--temperatures", type=float, nargs="+", default=TEMPERATURES)
    parser.add_argument("--stories", type=int, default=40, help="openings continued, 90 at most")
    parser.add_argument("--lessons", type=int, default=6, help="openings continued before those, to learn from")
    parser.add_argument("--tokens", type=int, default=100, help="written below each opening")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--results", type=Path, help="file of measured cells, read and appended to")
    parser.add_argument("--report", action="store_true", help="tables of the known cells alone")
    return parser.parse_args()


def main() -> None:
    chosen = options()
    torch.set_num_threads(chosen.threads)
    before, cells = {cell.key: cell for cell in known(chosen)}, []
    for name in chosen.pairs:
        if (reason := lacking(name)) is not None:
            print(reason, file=sys.stderr)
            continue
        cells += measured(name, chosen, before)
    print("\n".join(tables(cells, chosen.rules)))
    machine = {"processor": platform.machine(), "threads": chosen.threads, "python": platform.python_version()}
    print(json.dumps({"machine": machine, **setting(chosen), "cells": [asdict(cell) for cell in cells]}))


if __name__ == "__main__":
    main()
