"""Norm, SiLU, RoPE and quantising of activations at one layer's width: arms of benchmark kernels."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from specexec.kernels import attention, linear, rows
from tests.benchmarks.kernel_linear import quantise
from tests.benchmarks.machine import Machine
from tests.benchmarks.timing import alternate

WIDTH, COUNTS = 8192, (1, 64)
HEADS, KV_HEADS, DIM = 64, 8, 128
EPS = 1e-5


@dataclass(frozen=True)
class Cell:
    """bytes: read and written, most of it in a cache."""

    name: str
    n: int
    seconds: float
    bytes: int
    rate: float  # of reads of memory
    elsewhere: float


def arms(n: int) -> dict[str, tuple[Callable[[], object], int]]:
    """name: (arm, bytes)."""
    x, weight = torch.randn(n, WIDTH), torch.ones(WIDTH)
    gate_up = torch.randn(n, 2, WIDTH)
    found: dict[str, tuple[Callable[[], object], int]] = {}
    for bits in (8, 16):
        to = linear.Activations.empty(n, WIDTH, bits)
        made = to.q.nbytes + to.scale.nbytes + to.sum.nbytes
        found[f"quantise {bits}"] = quantise(x, bits), x.nbytes + made
        found[f"norm_quantise {bits}"] = (lambda to=to: rows.norm_quantise(x, weight, EPS, to)), x.nbytes + weight.nbytes + made
        found[f"silu_quantise {bits}"] = (lambda to=to: rows.silu_quantise(gate_up, to)), gate_up.nbytes + made
    return found | {"rope": rope(n)}


def rope(n: int) -> tuple[Callable[[], object], int]:
    qkv, angles = torch.randn(n, (HEADS + 2 * KV_HEADS) * DIM), torch.randn(n, 2, DIM // 2)
    q, cache = torch.empty(n, HEADS, DIM), attention.empty_cache(KV_HEADS, 1024, DIM)
    struct, how = attention.struct(*cache), rows.Rope(HEADS, DIM, DIM**-0.5, EPS)

    def run() -> object:
        rows.rope(qkv, angles, how, q, struct, 64)
        return cache

    return run, qkv.nbytes + q.nbytes + 2 * 2 * n * KV_HEADS * DIM


def measure(machine: Machine, counts: Sequence[int], rounds: int) -> list[Cell]:
    cells = []
    for n in counts:
        what = arms(n)
        timed = alternate({name: arm for name, (arm, _) in what.items()} | machine.arms(machine.read), rounds)
        rate = machine.rates(timed.seconds)[machine.read]
        cells += [Cell(name, n, timed.seconds[name], nbytes, rate, timed.elsewhere) for name, (_, nbytes) in what.items()]
    return cells


def table(cells: Sequence[Cell]) -> str:
    lines = [f"rows of {WIDTH}", "",
             "| kernel | n | us | GB/s | of reads of memory | others |", "|---|---:|---:|---:|---:|---:|"]
    lines += [f"| {c.name} | {c.n} | {1e6 * c.seconds:.1f} | {c.bytes / c.seconds / 1e9:.1f} "
              f"| {c.bytes / c.seconds / c.rate:.1f}x | {c.elsewhere:.2f} |" for c in cells]
    return "\n".join(lines)
