"""Attention over quantised groups, upper nibbles alone and both, beside bf16: a part of benchmark kernels."""

import math
from collections.abc import Sequence
from ctypes import pointer
from dataclasses import dataclass

import torch

from specexec.kernels import attention
from specexec.kernels.hierarchical import GROUP, Groups
from tests.benchmarks.kernel_attention import DIM, HEADS, KV_HEADS, ours
from tests.benchmarks.machine import Machine
from tests.benchmarks.peers import Arm
from tests.benchmarks.timing import alternate

KEYS, COUNTS = (32768, 65536), (1, 8)
READ = {"upper": 4, "both": 8}
ASKED = {"upper": 0.45, "both": 0.75}  # of bf16's seconds, for one query


@dataclass(frozen=True)
class Cell:
    """Seconds of attention; read: bytes of codes and scales."""

    arm: str
    keys: int
    n: int
    seconds: float
    bf16: float
    read: int
    memory: float
    elsewhere: float

    @property
    def share(self) -> float:
        return self.seconds / self.bf16

    def complaints(self) -> list[str]:
        if self.n > 1 or self.share <= ASKED[self.arm]:
            return []
        return [f"hierarchical {self.arm}, {self.keys:,} keys: {self.share:.2f} of bf16's time"]


def random(keys: int) -> Groups:
    groups = Groups.empty(KV_HEADS, keys // GROUP, DIM, 8)
    assert groups.lower is not None
    for codes in (groups.upper, groups.lower):
        codes.random_(0, 256)
    groups.scales.uniform_(0.05, 0.2)
    return groups


def quantised(groups: Groups, bits: int, n: int) -> Arm:
    """The last n keys are the queries' own, in bf16."""
    own = attention.empty_cache(KV_HEADS, 256, DIM)
    struct, told = attention.struct(*own), groups.struct(groups.capacity, bits, True)
    struct.position, struct.quantised = groups.capacity * GROUP, pointer(told)
    q, out = torch.randn(n, HEADS, DIM) / math.sqrt(DIM), torch.empty(n, HEADS, DIM)
    parents, seen = torch.arange(-1, n - 1, dtype=torch.int32), torch.zeros(n, dtype=torch.int32)
    held = (own, told, groups)
    return lambda: held and attention.attend(q, struct, 0, parents, seen, out)


def measure(machine: Machine, counts: Sequence[int], rounds: int) -> list[Cell]:
    cells = []
    for keys in KEYS:
        groups = random(keys)
        for n in counts:
            arms = {"bf16": ours(keys, n)} | {name: quantised(groups, bits, n) for name, bits in READ.items()}
            timed = alternate(arms | machine.arms(machine.read), rounds)
            rate = machine.rates(timed.seconds)[machine.read]
            read = {"upper": groups.nbytes - groups.upper.nbytes, "both": groups.nbytes}
            cells += [Cell(name, keys, n, timed.seconds[name], timed.seconds["bf16"], read[name], rate, timed.elsewhere)
                      for name in READ]
    return cells


def table(cells: Sequence[Cell]) -> str:
    lines = [f"attention over quantised keys and values, {HEADS}/{KV_HEADS} heads x {DIM}", "",
             "| nibbles | keys | queries | ms | ms in bf16 | share | GB/s | of reads | others |",
             "|---|---:|---:|---:|---:|---:|---:|---:|---:|"]
    lines += [f"| {c.arm} | {c.keys:,} | {c.n} | {1e3 * c.seconds:.2f} | {1e3 * c.bf16:.2f} | {c.share:.2f} "
              f"| {c.read / c.seconds / 1e9:.1f} | {c.read / c.seconds / c.memory:.0%} | {c.elsewhere:.2f} |" for c in cells]
    return "\n".join(lines)
