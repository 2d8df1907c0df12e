"""A model that recalls, drafting for itself from quantised keys and values, over plain decoding with bf16 ones, by turns:

    python -m tests.benchmarks.quantspec_recall [--context 32768] [--layers 24] [--pairs 20] [--budget 6]

The model is made by hand (tests/recall.py): two layers read a passage in its prompt again, all others do nothing but that their
keys and values are read; one KV head of 128, one query head. So keys and values are nearly all that a pass reads, as of no
published model at that context, and every token is written, not computed. Arms: plain decoding in bf16 and in int8; int8 with
drafts from the upper nibbles of all rows, and of chosen ones. Ids must be those of plain decoding with int8. One line of JSON
comes last.
"""

import argparse
import json
import tempfile
from dataclasses import asdict
from pathlib import Path

from cli.bench import machine
from specexec.budget import Auto, Fixed
from specexec.drafters.grow import Grow, Nothing
from specexec.drafters.same import Same, SelfView
from specexec.engines.kernel_engine import KernelEngine
from specexec.kv.quantised import UPPER
from specexec.roles import Budget, Drafter
from tests import quantised, recall
from tests.benchmarks.timing import elsewhere
from tests.benchmarks.view_recall import PASSAGE, WARM, of_runs, recalled_table, repeated

PLAIN, INT8 = "plain, bf16", "plain, int8"
VIEWS = {"upper nibbles": UPPER, "upper nibbles of chosen rows": "retrieval"}
WANTED = 1.6  # times plain decoding in bf16


def drafting(engine: KernelEngine, kind: str, budget: int | None) -> tuple[Drafter, Budget]:
    view: SelfView = engine.cache.view(kind)  # type: ignore[assignment]
    return Grow([Same(engine, view)], engine.limits.context), Auto(64) if budget is None else Fixed(budget)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--context", type=int, default=32768)
    parser.add_argument("--layers", type=int, default=24)
    parser.add_argument("--pairs", type=int, default=20)
    parser.add_argument("--budget", type=int, help="nodes of a tree; default what turns out to be fastest")
    parser.add_argument("--passage", type=int, default=PASSAGE)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        bf16 = quantised.engine(recall.save(Path(folder), chosen.layers), "int8", 16, vocabulary=recall.VOCABULARY)
    int8 = bf16.keeping("int8")
    prompt, fact = recall.text(chosen.context, chosen.passage)
    arms = {PLAIN: (bf16, Nothing(), Fixed(0)), INT8: (int8, Nothing(), Fixed(0)),
            **{name: (int8, *drafting(int8, kind, chosen.budget)) for name, kind in VIEWS.items()}}
    runs: dict[str, list[tuple[float, int, list[int]]]] = {name: [] for name in arms}

    def turns() -> None:
        for number in range(chosen.pairs + WARM):
            for name in sorted(arms, reverse=bool(number % 2)):
                runs[name].append(repeated(*arms[name], prompt, len(fact)))
            print(number, {name: round(taken[-1][0], 3) for name, taken in runs.items()}, flush=True)

    others = elsewhere(turns)
    cells = [of_runs(name, chosen.context, runs[name][WARM:], runs[PLAIN][WARM:]) for name in runs]
    print(recalled_table(cells))
    same = all(run[2] == runs[INT8][0][2] for name in VIEWS for run in runs[name])
    right = sum(a == b for a, b in zip(runs[INT8][0][2], fact, strict=False)) / len(fact)
    print(f"ids with drafts are those of plain int8: {'yes' if same else 'NO'}; of the passage {right:.0%} is right")
    kept = {name: next(cell for cell in cells if cell.drafts == name) for name in VIEWS}
    reached = any(cell.ratio >= WANTED for cell in kept.values())
    print(f"{WANTED} times plain decoding in bf16: {'yes' if reached else 'no'}; others used {others:.2f} cores meanwhile")
    print(json.dumps({"machine": machine(), "layers": chosen.layers, "kv_heads": 1, "head_dim": recall.HEAD, "same_ids": same,
                      "right": right, "elsewhere": others, "cells": [asdict(cell) for cell in cells]}))


if __name__ == "__main__":
    main()
