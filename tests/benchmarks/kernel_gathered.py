"""Attention over chunks gathered from a long cache, beside the same number of rows in order: a part of benchmark kernels."""

import math
from collections.abc import Sequence
from ctypes import pointer
from dataclasses import dataclass

import torch

from specexec.kernels import attention
from specexec.kernels.attention import EIGHT, EIGHTS
from tests.benchmarks.kernel_attention import DIM, HEADS, KV_HEADS
from tests.benchmarks.machine import Machine
from tests.benchmarks.peers import Arm, Copies, clones
from tests.benchmarks.timing import alternate

BASE, ROWS, COUNTS, CHUNKS = 65536, 4096, (1, 8, 32), (8, 16, 64)
ASKED = 0.5  # of the speed of rows in order: an eight of keys is half of what memory hands over


@dataclass(frozen=True)
class Cell:
    """Seconds of attention over ROWS rows; chunk 0: in order."""

    chunk: int
    n: int
    seconds: float
    straight: float
    elsewhere: float

    @property
    def speed(self) -> float:
        """Bytes of keys and values a second."""
        return 2 * 2 * ROWS * KV_HEADS * DIM / self.seconds

    def complaints(self) -> list[str]:
        share = self.straight / self.seconds
        return [f"gathered chunks of {self.chunk}, n={self.n}: {share:.2f} of rows in order"] if share < ASKED else []


def chosen(chunk: int, seed: int) -> torch.Tensor:
    """int32[KV_HEADS, blocks, 8], every head's own."""
    random, each = torch.Generator().manual_seed(seed), chunk // EIGHT
    orders = [torch.randperm(BASE // chunk, generator=random) for _ in range(KV_HEADS)]
    picks = torch.stack([order[: ROWS // chunk].sort().values for order in orders])
    return (picks[..., None] * each + torch.arange(each)).int().view(KV_HEADS, -1, EIGHTS)


def cache(rows: int) -> tuple[torch.Tensor, torch.Tensor]:
    made = attention.empty_cache(KV_HEADS, rows, DIM)
    for part in made:
        part.normal_()
    return made


def gathered(base: tuple[torch.Tensor, torch.Tensor], chunk: int, n: int) -> Arm:
    """n queries that see themselves and the chunks, other ones in each call."""
    own, choices = cache(64), [chosen(chunk, seed) for seed in range(8)]
    above = [attention.gathered(*base, eights) for eights in choices]
    structs = [attention.struct(*own) for _ in above]
    for struct, one in zip(structs, above, strict=True):
        struct.position, struct.gathered = BASE, pointer(one)
    q, out = torch.randn(n, HEADS, DIM) / math.sqrt(DIM), torch.empty(n, HEADS, DIM)
    parents, seen = torch.arange(-1, n - 1, dtype=torch.int32), torch.zeros(n, dtype=torch.int32)
    turn = iter(range(10**9))
    held = (own, choices, base)
    return lambda: held and attention.attend(q, structs[next(turn) % len(structs)], 0, parents, seen, out)


def straight(n: int) -> Arm:
    first = cache(ROWS)
    caches = Copies(first, sum(part.nbytes for part in first), lambda pair: clones(*pair))
    structs = {id(pair): attention.struct(*pair) for pair in caches.items}
    q, out = torch.randn(n, HEADS, DIM) / math.sqrt(DIM), torch.empty(n, HEADS, DIM)
    parents, seen = torch.arange(-1, n - 1, dtype=torch.int32), torch.zeros(n, dtype=torch.int32)
    return lambda: attention.attend(q, structs[id(caches.next())], ROWS - n, parents, seen, out)


def measure(machine: Machine, counts: Sequence[int], rounds: int) -> list[Cell]:
    base, cells = cache(BASE), []
    for n in counts:
        arms = {"straight": straight(n)} | {str(chunk): gathered(base, chunk, n) for chunk in CHUNKS}
        timed = alternate(arms, rounds)
        cells += [Cell(chunk, n, timed.seconds[str(chunk)], timed.seconds["straight"], timed.elsewhere) for chunk in CHUNKS]
    return cells


def table(cells: Sequence[Cell]) -> str:
    lines = [f"attention over {ROWS:,} rows of {BASE:,}, {HEADS}/{KV_HEADS} heads x {DIM}", "",
             "| queries | chunk | ms | GB/s | ms in order | others |", "|---:|---:|---:|---:|---:|---:|"]
    lines += [f"| {c.n} | {c.chunk} | {1e3 * c.seconds:.2f} | {c.speed / 1e9:.1f} | {1e3 * c.straight:.2f} "
              f"| {c.elsewhere:.2f} |" for c in cells]
    return "\n".join(lines)
