"""Attention over quantised keys and values on CUDA: upper nibbles, both, bf16 of the same shape, and torch's own.

    python -m tests.benchmarks.cuda_attention [--keys 32768 65536 131072] [--queries 1 64]

32/8 heads x 128. Ways take turns, each over layers that the device's cache cannot keep; medians. Without a device
TRITON_INTERPRET=1 shows that it runs, at a size such as --keys 256 --pairs 1, and its figures mean nothing.
"""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import argparse
import json
import time
from collections.abc import Callable, Sequence
from statistics import median

import torch
from torch.nn.functional import scaled_dot_product_attention

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

from specexec.kernels import hierarchical_triton
from specexec.kernels.hierarchical import GROUP
from specexec.kernels.row_groups import RowGroups
from tests.benchmarks import cuda_bf16

HEADS, KV_HEADS, DIM = 32, 8, 128
CACHED = 256 * 2**20  # bytes, more than any device's cache
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
DTYPE = torch.bfloat16 if DEVICE.type == "cuda" else torch.float16  # the interpreter has no products in bf16

Way = Callable[[], object]
Layer = tuple[torch.Tensor, torch.Tensor, RowGroups]  # (k, v)[kv_heads, keys, dim], and the same quantised


def layer(keys: int) -> Layer:
    k, v = (torch.randn(KV_HEADS, keys, DIM, device=DEVICE, dtype=DTYPE) for _ in range(2))
    groups = RowGroups.empty(KV_HEADS, keys // GROUP, DIM, 8, DEVICE)
    for at in range(0, keys, 32 * GROUP):
        groups.put(at // GROUP, k[:, at : at + 32 * GROUP], v[:, at : at + 32 * GROUP])
    return k, v, groups


def ways(layers: Sequence[Layer], keys: int, queries: int) -> dict[str, Way]:
    """Each goes through all layers."""
    q = torch.randn(HEADS, queries, DIM, device=DEVICE, dtype=DTYPE) / DIM**0.5
    folded = q.view(1, KV_HEADS, -1, DIM)
    return {
        "U": lambda: [hierarchical_triton.attend(q, groups, keys // GROUP, 4) for _, _, groups in layers],
        "U+L": lambda: [hierarchical_triton.attend(q, groups, keys // GROUP, 8) for _, _, groups in layers],
        "bf16": lambda: [cuda_bf16.attend(q, k, v) for k, v, _ in layers],
        "torch": lambda: [scaled_dot_product_attention(folded, k[None], v[None], scale=1.0) for k, v, _ in layers],
    }


def recorded(way: Way) -> Way:
    """The same without what Python takes to queue it."""
    way()
    if DEVICE.type != "cuda":
        return way
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        way()
    return graph.replay


def milliseconds(way: Way) -> float:
    if DEVICE.type != "cuda":
        start = time.perf_counter()
        way()
        return 1e3 * (time.perf_counter() - start)
    before, after = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    before.record()
    way()
    after.record()
    torch.cuda.synchronize()
    return float(before.elapsed_time(after))


@torch.inference_mode()
def timed(keys: int, queries: int, pairs: int) -> dict[str, float]:
    """Milliseconds of each way, a layer."""
    layers = [layer(keys) for _ in range(-(-CACHED // (KV_HEADS * keys * DIM)) if DEVICE.type == "cuda" else 1)]
    all_of = {name: recorded(way) for name, way in ways(layers, keys, queries).items()}
    turns = [{name: milliseconds(way) / len(layers) for name, way in all_of.items()} for _ in range(pairs)]
    return {name: median(turn[name] for turn in turns) for name in all_of}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keys", type=int, nargs="*", default=[32768, 65536, 131072])
    parser.add_argument("--queries", type=int, nargs="*", default=[1, 64])
    parser.add_argument("--pairs", type=int, default=30)
    chosen, rows = parser.parse_args(), []
    print("| keys | queries | U, ms | U+L | bf16 | torch | GB/s of U | U+L | bf16 / U | bf16 / U+L | torch / U | torch / U+L |")
    print("|---" * 12 + "|")
    for keys in chosen.keys:
        for queries in chosen.queries:
            ms, nbytes = timed(keys, queries, chosen.pairs), 2 * KV_HEADS * keys * DIM
            rates = [nbytes * share / ms[of] / 1e6 for of, share in (("U", 0.5 + 4 / GROUP), ("U+L", 1 + 4 / GROUP))]
            ratios = [ms[of] / ms[by] for of in ("bf16", "torch") for by in ("U", "U+L")]
            cells = [f"{x:.3f}" for x in ms.values()] + [f"{x:.0f}" for x in rates] + [f"{x:.2f}" for x in ratios]
            print(f"| {keys:,} | {queries} | {' | '.join(cells)} |", flush=True)
            rows.append({"keys": keys, "queries": queries, "milliseconds": ms})
    print(json.dumps({"device": torch.cuda.get_device_name() if DEVICE.type == "cuda" else "interpreted", "rows": rows}))


if __name__ == "__main__":
    main()
