"""How much of a real pass verification takes where the vocabulary is large:

    python -m tests.benchmarks.vocabulary_share STORE --nodes 64 1024

The pass is a store's own, with its whole vocabulary, over a tree of any tokens. What is verified are synthetic rows in place of
its logits, since a model made large (`specexec bench --shape`) knows only the tokens of the small one. A markdown table.
"""

import argparse
import random
import statistics
import time
from dataclasses import replace
from pathlib import Path

import torch

from cli.engines import Making
from cli.models import ModelOptions
from offload.store import Store
from specexec.engines.tree_engine import TreeEngine
from specexec.noise import Noise
from specexec.sampling import Penalties
from specexec.tree import ROOT, DraftTree
from specexec.verify import Picks, verify
from tests.benchmarks.fake import logits
from tests.benchmarks.large_vocabulary import SAMPLINGS

PROMPT = 64
CHILDREN = 3  # of a node at the most


def any_tree(nodes: int, seed: int) -> DraftTree:
    source = random.Random(seed)
    parents = [ROOT, *(source.randrange((i - 1) // CHILDREN, i) for i in range(1, nodes + 1))]
    n = len(parents)
    return DraftTree(tuple(range(n)), tuple(parents), (0.0,) * n, ("test",) * n)  # siblings differ


def timed(engine: TreeEngine, tree: DraftTree, name: str, rows: torch.Tensor, seed: int) -> tuple[float, float]:
    """Seconds of (the pass without verification, verification with its noise)."""
    sampling, spent, copied = SAMPLINGS[name], 0.0, 0.0
    picks = Picks(tree, PROMPT, sampling, Noise(seed, 0, PROMPT, rows.shape[1], sampling.temperature == 0),
                  Penalties(sampling, [], []))

    def read(first: int, found: torch.Tensor) -> None:
        nonlocal spent, copied
        began = time.perf_counter()
        found.copy_(rows[first % len(rows) :][: len(found)])
        copied += (done := time.perf_counter()) - began
        picks(first, found)
        spent += time.perf_counter() - done

    began = time.perf_counter()
    engine.forward(tree, read)
    forward = time.perf_counter() - began - spent - copied
    began = time.perf_counter()
    verify(tree, picks)
    return forward, spent + time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", type=Path)
    parser.add_argument("--nodes", type=int, nargs="*", default=[64, 1024])
    parser.add_argument("--times", type=int, default=3)
    given = parser.parse_args()
    options = replace(ModelOptions(str(given.store)), nodes=max(given.nodes), context=8192)
    engine = Making(Store(given.store), options, 1 << 30, lambda: False).engine()
    vocabulary = engine.limits.vocabulary
    rows = torch.cat([logits(vocabulary, 64, 1)] * (1 + max(given.nodes) // 64))
    engine.sync(list(range(PROMPT)))
    timed(engine, DraftTree((0,)), "T = 0", rows, 0)
    print(f"V = {vocabulary:,}, {torch.get_num_threads()} threads, medians of {given.times}\n")
    print("| sampling | nodes | pass, s | verification, ms | share |\n|---|---:|---:|---:|---:|")
    for nodes in given.nodes:
        for name in SAMPLINGS:
            found = [timed(engine, any_tree(nodes, i), name, rows, i) for i in range(given.times)]
            forward, spent = (statistics.median(column) for column in zip(*found, strict=True))
            print(f"| {name} | {nodes:,} | {forward:.2f} | {1e3 * spent:.1f} | {spent / (forward + spent):.2%} |", flush=True)


if __name__ == "__main__":
    main()
