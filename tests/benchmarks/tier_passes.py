"""What a pass of each tier takes, by the length of the context: a part of benchmark long_context.

A random model whose keys and values are most of what a pass reads, with caches filled with random rows. Contexts take turns.
"""

import argparse
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch

from specexec.drafters.model import unread
from specexec.engines.families import admit
from specexec.engines.kernel_engine import KernelEngine
from specexec.engines.tree_engine import TreeEngine
from specexec.kv.blocks import BlockCache
from specexec.kv.choice import Gather
from specexec.kv.retrieval import BlockGathering
from specexec.tree import ROOT, DraftTree
from tests.benchmarks.kernel_model import Random
from tests.benchmarks.timing import alternate

SHAPE: dict[str, Any] = {
    "model_type": "llama", "hidden_size": 1024, "num_hidden_layers": 6, "intermediate_size": 1024, "num_attention_heads": 8,
    "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 2048, "max_position_embeddings": 131072,
}
NODES = (1, 8)
RETRIEVAL = Gather()
WINDOW = replace(RETRIEVAL, scored=False)


@dataclass(frozen=True)
class Cell:
    """Seconds of a pass. read: bytes of keys and values."""

    tier: str
    context: int
    nodes: int
    seconds: float
    read: int
    elsewhere: float


def chain(n: int) -> DraftTree:
    return DraftTree(tuple(range(n)), tuple(range(ROOT, n - 1)), (0.0,) * n, ("test",) * n)


def fill(engine: TreeEngine, cache: BlockCache, tokens: Sequence[int], step: int) -> None:
    """As if it had read these tokens, in chunks of `step`; the rows are random."""
    for start in range(0, len(tokens), step):
        some = tokens[start : start + step]
        before = cache.nbytes
        cache.room(cache.held + len(some))
        if cache.nbytes != before:
            for part in (part for pair in cache.buffers() for part in pair):
                flat = part.view(-1)
                flat[:] = torch.randn(2**20).bfloat16().repeat(math.ceil(len(flat) / 2**20))[: len(flat)]
        cache.admit(some, range(ROOT, len(some) - 1))
        cache.rebase(range(len(some)))
    engine.sync(tokens)


def tiers(engine: KernelEngine, context: int) -> dict[str, tuple[TreeEngine, int]]:
    """{name: (engine, rows of keys and values that its pass reads)}, each at `context`."""
    tokens = [at % 2000 for at in range(context)]
    full = engine.over(base := BlockCache(len(engine.windows), engine.shape.kv_heads, engine.shape.head_dim, context + 64))
    fill(full, base, tokens, context)
    views = {name: full.over(BlockGathering(base, of)) for name, of in (("retrieval", RETRIEVAL), ("window", WINDOW))}
    for one in (full, *views.values()):
        one.sync(tokens)
        one.forward(chain(1), unread)  # somebody asks
    draft = engine.forgetting(131072)
    assert isinstance(draft.cache, BlockCache)
    fill(draft, draft.cache, tokens, 256)
    rows = RETRIEVAL.rows + context % RETRIEVAL.chunk
    return {"full": (full, context), **{name: (view, rows) for name, view in views.items()},
            "window draft": (draft, draft.cache.held)}


def passes(chosen: argparse.Namespace) -> list[Cell]:
    config = admit(SHAPE)
    engine = KernelEngine(config, Random(config), config.vocab_size, 8)
    made = {context: tiers(engine, context) for context in chosen.contexts}
    row = 2 * 2 * len(engine.windows) * engine.shape.kv
    cells = []
    for n in NODES:
        for name in ("retrieval", "window", "window draft", "full"):
            arms = {str(context): partial(found[name][0].forward, chain(n), unread) for context, found in made.items()}
            timed = alternate(arms, chosen.rounds, patience=chosen.patience)
            cells += [Cell(name, context, n, timed.seconds[str(context)], made[context][name][1] * row, timed.elsewhere)
                      for context in made]
    return cells


def passes_table(cells: Sequence[Cell]) -> str:
    contexts = sorted({c.context for c in cells})
    heading = " | ".join(f"{context:,}" for context in contexts)
    heads = f"{SHAPE['num_key_value_heads']} KV heads x {SHAPE['head_dim']}"
    lines = [f"ms a pass of {SHAPE['num_hidden_layers']} layers, {heads}", "",
             f"| tier | nodes | {heading} | longest over shortest | MB read at the longest | others |",
             "|---|---:|" + "---:|" * (len(contexts) + 3)]
    for name, n in dict.fromkeys((c.tier, c.nodes) for c in cells):
        own = sorted((c for c in cells if (c.tier, c.nodes) == (name, n)), key=lambda c: c.context)
        lines.append(f"| {name} | {n} | {' | '.join(f'{1e3 * c.seconds:.2f}' for c in own)} "
                     f"| {own[-1].seconds / own[0].seconds:.2f} | {own[-1].read / 1e6:.0f} | {own[-1].elsewhere:.2f} |")
    return "\n".join(lines)
