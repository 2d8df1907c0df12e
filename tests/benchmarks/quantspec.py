"""A model that drafts from the upper nibbles of its own int8 KV cache, over plain decoding with one of bf16, by turns:

    python -m tests.benchmarks.quantspec [--context 32768] [--pairs 20] [--budget 6]

A random model whose keys and values are most of what a pass reads, over caches filled with random rows: what passes take.
What it writes says nothing, so tokens a pass are those of a chain of `budget` guesses that are right with the given chance each
(quantised_kv.py measures that); seconds are measured: as many draft passes and one that checks them, against a pass of plain
decoding for every token. One line of JSON comes last.
"""

import argparse
import json
import statistics
from functools import partial
from typing import Any

from specexec.drafters.model import unread
from specexec.engines.families import admit
from specexec.engines.kernel_engine import KernelEngine
from specexec.kernels.hierarchical import GROUP
from specexec.kv.blocks import BlockCache
from specexec.kv.hierarchical import HierarchicalCache
from specexec.kv.quantised import UPPER
from tests.benchmarks.budget import interval
from tests.benchmarks.kernel_model import Random
from tests.benchmarks.tier_passes import SHAPE, chain, fill
from tests.benchmarks.timing import alternate, elsewhere


def bf16(engine: KernelEngine, context: int) -> KernelEngine:
    cache = BlockCache(len(engine.windows), engine.shape.kv_heads, engine.shape.head_dim, context + 64)
    made = engine.over(cache)
    fill(made, cache, tokens(context), context)
    return made


def quantised(engine: KernelEngine, context: int, bits: int) -> KernelEngine:
    """Over random groups, and rows of 0 in the buffer."""
    cache = HierarchicalCache(len(engine.windows), engine.shape.kv_heads, engine.shape.head_dim, bits, context + GROUP)
    made = engine.over(cache)
    for start in range(0, context, GROUP):
        some = tokens(context)[start : start + GROUP]
        cache.room(cache.held + len(some))
        cache.admit(some, range(-1, len(some) - 1))
        cache.rebase(range(len(some)))
    for groups in cache.groups:
        for codes in (groups.upper, groups.lower):
            if codes is not None:
                codes.random_(0, 256)
        groups.scales.uniform_(0.05, 0.2)
    made.sync(tokens(context))
    return made


def int8(engine: KernelEngine, context: int) -> tuple[KernelEngine, KernelEngine]:
    """(the target, its draft)"""
    made = quantised(engine, context, 8)
    draft = made.over(made.cache.view(UPPER))
    draft.sync(tokens(context))
    return made, draft


def tokens(context: int) -> list[int]:
    return [at % 2000 for at in range(context)]


def expected(chance: float, nodes: int) -> float:
    """Tokens a pass of a chain of so many guesses."""
    return sum(chance**depth for depth in range(nodes + 1))


def drafted(draft: KernelEngine, nodes: int) -> None:
    """A chain that grows a node a pass, as a draft's does."""
    for first in range(nodes):
        draft.forward(chain(first + 1), unread, first)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--context", type=int, default=32768)
    parser.add_argument("--pairs", type=int, default=20)
    parser.add_argument("--budget", type=int, nargs="+", default=[2, 4, 6])
    parser.add_argument("--chance", type=float, nargs="+", default=[0.91, 0.98])
    chosen = parser.parse_args()
    config = admit(SHAPE)
    engine = KernelEngine(config, Random(config), config.vocab_size, 8)
    plain, (target, draft) = bf16(engine, chosen.context), int8(engine, chosen.context)
    found: list[dict[str, Any]] = []
    for nodes in chosen.budget:
        arms = {"plain": partial(plain.forward, chain(1), unread), "draft": partial(drafted, draft, nodes),
                "check": partial(target.forward, chain(nodes + 1), unread), "int8": partial(target.forward, chain(1), unread)}
        rounds = [alternate(arms, 1, patience=0).seconds for _ in range(chosen.pairs)]
        of = {name: statistics.median(one[name] for one in rounds) for name in arms}
        for chance in chosen.chance:
            gained = expected(chance, nodes)
            ratios = [gained * one["plain"] / (one["draft"] + one["check"]) for one in rounds]
            found.append({"budget": nodes, "chance": chance, "tokens_per_pass": gained,
                          "ms": {name: 1e3 * seconds for name, seconds in of.items()},
                          "ratio": statistics.median(ratios), "interval": interval(ratios)})
            print(found[-1], flush=True)
    print(json.dumps({"context": chosen.context, "shape": SHAPE, "elsewhere": elsewhere(arms["plain"]), "cells": found}))


if __name__ == "__main__":
    main()
