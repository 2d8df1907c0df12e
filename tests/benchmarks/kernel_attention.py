"""Our attention over bf16 blocks beside every form torch offers: arms of benchmark kernels."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional

from specexec.kernels import attention
from tests.benchmarks.machine import Machine
from tests.benchmarks.peers import FOOTPRINT, Arm, Copies, clones
from tests.benchmarks.timing import alternate

HEADS, KV_HEADS, DIM = 32, 8, 128
FOLD = HEADS // KV_HEADS
KEYS, COUNTS = (1024, 32768, 131072), (1, 2, 8, 16, 64)
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
BANDWIDTH, RATE = 0.7, 0.6  # what is asked of us: of the reads at n = 1, of torch's bf16 products above
LONG = 32768


@dataclass(frozen=True)
class Cell:
    keys: int
    n: int
    seconds: dict[str, float]
    rates: dict[str, float]
    read: str
    elsewhere: float

    @property
    def best(self) -> str:
        return min((name for name in self.seconds if name != "ours"), key=self.seconds.__getitem__)

    @property
    def speed(self) -> float:
        """Bytes of keys and values a second."""
        return 2 * 2 * self.keys * KV_HEADS * DIM / self.seconds["ours"]

    @property
    def products(self) -> float:
        """Operations a second."""
        return 2 * 2 * self.n * HEADS * self.keys * DIM / self.seconds["ours"]

    def complaints(self) -> list[str]:
        cell, found = f"attention {self.keys:,} keys n={self.n}", []
        if (ratio := self.seconds[self.best] / self.seconds["ours"]) < 1:
            found.append(f"{cell}: ours runs at {ratio:.2f} of torch's {self.best}")
        if self.n == 1 and self.keys >= LONG and (share := self.speed / self.rates[self.read]) < BANDWIDTH:
            found.append(f"{cell}: {share:.2f} of the bandwidth")
        if self.n > 1:
            found += [f"{cell}: {share:.2f} of torch's {name} products" for name in DTYPES
                      if (share := self.products / self.rates[name]) < RATE]
        return found


def ours(keys: int, n: int) -> Arm:
    """The last n keys are the queries' own: a chain."""
    first = attention.empty_cache(KV_HEADS, keys, DIM)
    for part in first:
        part.normal_()
    caches = Copies(first, sum(part.nbytes for part in first), lambda pair: clones(*pair))
    structs = {id(pair): attention.struct(*pair) for pair in caches.items}
    q, out = torch.randn(n, HEADS, DIM) / math.sqrt(DIM), torch.empty(n, HEADS, DIM)
    parents, seen = torch.arange(-1, n - 1, dtype=torch.int32), torch.zeros(n, dtype=torch.int32)
    return lambda: attention.attend(q, structs[id(caches.next())], keys - n, parents, seen, out)


def torchs(keys: int, n: int, name: str) -> dict[str, Arm]:
    """Without a mask, which would cost torch more."""
    first = tuple(torch.randn(1, KV_HEADS, keys, DIM).to(DTYPES[name]) for _ in range(2))
    caches = Copies(first, 2 * first[0].nbytes, lambda pair: clones(*pair))
    q = torch.randn(1, HEADS, n, DIM).to(DTYPES[name])
    folded = q.view(1, KV_HEADS, FOLD * n, DIM)
    scaled = folded / math.sqrt(DIM)

    def written_out() -> object:
        k, v = caches.next()
        return (scaled @ k.transpose(-1, -2)).softmax(-1) @ v

    return {f"sdpa gqa {name}": lambda: functional.scaled_dot_product_attention(q, *caches.next(), enable_gqa=True),
            f"sdpa folded {name}": lambda: functional.scaled_dot_product_attention(folded, *caches.next()),
            f"matmuls {name}": written_out}


def measure(machine: Machine, all_keys: Sequence[int], counts: Sequence[int], rounds: int) -> list[Cell]:
    """A cell for each number of keys and queries. All arms together hold 3 times FOOTPRINT at least."""
    cells = []
    for keys in all_keys:
        for n in counts:
            arms = {"ours": ours(keys, n)} | torchs(keys, n, "bf16") | torchs(keys, n, "fp32")
            timed = alternate(arms | machine.arms(machine.read, *DTYPES), rounds)
            seconds = {name: timed.seconds[name] for name in arms}
            cells.append(Cell(keys, n, seconds, machine.rates(timed.seconds), machine.read, timed.elsewhere))
            print(f"  {keys} keys n={n} elsewhere {timed.elsewhere:.2f}", flush=True)
    return cells


def table(cells: Sequence[Cell]) -> str:
    names = list(cells[0].seconds)
    lines = [f"attention, {HEADS}/{KV_HEADS} heads x {DIM}, ms; caches cycle over {FOOTPRINT / 2**20:.0f} MiB", "",
             f"| keys | n | {' | '.join(names)} | torch's best | ours | GB/s | of reads | GF/s | of bf16 | of fp32 | others |",
             "|---:|---:|" + "---:|" * len(names) + "---|" + "---:|" * 7]
    for c in cells:
        times = " | ".join(f"{1e3 * c.seconds[name]:.2f}" for name in names)
        ratio = c.seconds[c.best] / c.seconds["ours"]
        shares = " | ".join(f"{c.products / c.rates[name]:.0%}" for name in DTYPES)
        lines.append(f"| {c.keys:,} | {c.n} | {times} | {c.best} | {ratio:.1f}x | {c.speed / 1e9:.1f} "
                     f"| {c.speed / c.rates[c.read]:.0%} | {c.products / 1e9:.0f} | {shares} | {c.elsewhere:.2f} |")
    return "\n".join(lines)
