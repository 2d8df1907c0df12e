"""What a pass of each tier takes, by the length of the context; and what tiers that see a part of it still know:

    python -m tests.benchmarks.long_context [--only passes novel recalled recall] [--rounds 20]

Parts: tier_passes.py (passes), view_knowledge.py (novel, recalled), view_recall.py (recall). Tables in markdown; one line of
JSON comes last.
"""

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from cli.bench import machine
from tests.benchmarks import tier_passes, view_knowledge, view_recall

CONTEXTS = (8192, 16384, 32768, 65536)
NOVEL = Path(__file__).parents[3] / "shared" / "data" / "text" / "long_novel.txt.gz"
Part = tuple[Callable[[argparse.Namespace], Sequence[Any]], Callable[[Sequence[Any]], str]]
PARTS: dict[str, Part] = {
    "passes": (tier_passes.passes, tier_passes.passes_table),
    "novel": (view_knowledge.novel, view_knowledge.table),
    "recalled": (view_knowledge.recalled, view_knowledge.table),
    "recall": (view_recall.recalled, view_recall.recalled_table),
}


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--recall", type=int, nargs="+", default=[32768, 65536], help="contexts of recall")
    parser.add_argument("--pairs", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--patience", type=int, default=40, help="rounds beside busy processes that are done again")
    parser.add_argument("--contexts", type=int, nargs="+", default=list(CONTEXTS))
    parser.add_argument("--budgets", type=int, nargs="+", default=[64, 128, 256, 512], help="rows of a view of the novel")
    parser.add_argument("--chunks", type=int, nargs="+", default=[8, 16, 32, 64])
    parser.add_argument("--samples", type=int, default=100)
    parser.add_argument("--length", type=int, default=960, help="tokens of a piece of the novel")
    parser.add_argument("--ahead", type=int, default=32, help="of them, read by the view")
    parser.add_argument("--text", type=Path, default=NOVEL)
    parser.add_argument("--recall-length", type=int, default=16384, help="tokens before a passage is asked for again")
    parser.add_argument("--recall-samples", type=int, default=12)
    parser.add_argument("--recall-budgets", type=int, nargs="+", default=[128, 256, 1024, 4096])
    return parser.parse_args()


def main() -> None:
    chosen, made = options(), {}
    torch.manual_seed(0)
    for name in chosen.only:
        measure, table = PARTS[name]
        cells = measure(chosen)
        print(table(cells) + "\n", flush=True)
        made[name] = [asdict(cell) for cell in cells]
    print(json.dumps({"machine": machine(), **made}))


if __name__ == "__main__":
    main()
