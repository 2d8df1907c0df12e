"""Seconds of a pass over keys and values on a disk, by their format, without weights:

    python -m tests.benchmarks.kv_disk [--folder FOLDER] [--context 65536] [--layers 8] [--rounds 5]

32/8 heads x 128, one query. The formats take turns, each over a file that is made anew and gone at the end. A line a format:
MiB of a pass, median seconds, the least and the most, GB/s.
"""

import argparse
import os
import time
from contextlib import closing
from pathlib import Path
from statistics import median

import torch

from offload.kv_file import KvFile
from specexec.kernels.hierarchical import GROUP
from specexec.kv.backing import BLOCK, KEPT
from specexec.kv.blocks import BlockCache
from specexec.kv.cache import Rows
from specexec.kv.offloaded import OffloadedBlocks
from specexec.kv.offloaded_hierarchical import OffloadedHierarchical, page_record
from specexec.kv.quantised import BITS
from specexec.tree import ROOT

HEADS, KV_HEADS, DIM = 32, 8, 128


def filled(kv: str, chosen: argparse.Namespace) -> tuple[BlockCache, KvFile]:
    """A cache of bytes that mean nothing much; those of bf16 are small numbers."""
    layers, context = chosen.layers, chosen.context
    if kv == "bf16":
        file = KvFile(chosen.folder, layers, 2 * KV_HEADS, context + BLOCK, 2 * DIM)
        cache: BlockCache = OffloadedBlocks(layers, KV_HEADS, DIM, file)
        rows, each = context - KEPT, 2 * KV_HEADS
    else:
        file = KvFile(chosen.folder, layers, 1, context // GROUP, page_record(KV_HEADS, DIM, BITS[kv]))
        made = OffloadedHierarchical(layers, KV_HEADS, DIM, BITS[kv], file, 1)
        made.made, made.start = context // GROUP, context - GROUP
        cache, rows, each = made, (context - KEPT) // GROUP, 1
    noise = torch.full((each, rows * file.row), 0x2C, dtype=torch.uint8)
    file.put(rows, (noise for _ in range(layers)))
    if kv != "bf16":
        made._changed()
    cache._tokens = [0] * context
    return cache, file


def seconds(cache: BlockCache) -> float:
    one = torch.tensor([cache.length])
    seen = Rows(one, torch.ones(1, 1, dtype=torch.bool), torch.zeros_like(one), (ROOT,))
    q, (k, v) = torch.randn(HEADS, 1, DIM) / DIM**0.5, torch.randn(2, KV_HEADS, 1, DIM)
    began = time.perf_counter()
    for layer in range(cache.layers):
        cache.attend(layer, q, k, v, seen)
    return time.perf_counter() - began


def measured(kv: str, chosen: argparse.Namespace) -> tuple[int, list[float]]:
    """(bytes of a pass, seconds of several): over a file of its own, since a disk is not alike everywhere."""
    cache, file = filled(kv, chosen)
    with closing(file):
        seconds(cache)  # the first one waits for what was written
        return chosen.layers * file.strips * file.rows * file.row, [seconds(cache) for _ in range(3)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path.cwd())
    for name, default in (("--context", 65536), ("--layers", 8), ("--rounds", 5)):
        parser.add_argument(name, type=int, default=default)
    chosen, took, load = parser.parse_args(), {kv: list[float]() for kv in ("bf16", *BITS)}, os.getloadavg()[0]
    size = dict.fromkeys(took, 0)
    for kv in list(took) * chosen.rounds:
        size[kv], found = measured(kv, chosen)
        took[kv] += found
    for kv, times in took.items():
        rate = size[kv] / median(times) / 1e9
        print(f"| {kv} | {size[kv] / 2**20:,.0f} | {median(times):.2f} | {min(times):.2f} to {max(times):.2f} | {rate:.2f} |")
    print(f"{chosen.layers} layers, context {chosen.context:,}, load {load:.1f} before and {os.getloadavg()[0]:.1f} after")


if __name__ == "__main__":
    main()
