"""Seconds of a pass on three machines: T_target(n) = max(bytes / bandwidth, n flop / rate), and those of the draft's passes.

A model of the machines, not a measurement: it compares rules, whose trees cost differently many sequential draft passes.
"""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Model:
    """bytes: read in every pass, at `bandwidth` bytes a second. flop: a row, at `rate` a second."""

    bytes: float
    bandwidth: float
    flop: float
    rate: float

    def seconds(self, rows: float) -> float:
        return max(self.bytes / self.bandwidth, rows * self.flop / self.rate)


@dataclass(frozen=True)
class Profile:
    name: str
    target: Model
    draft: Model

    def seconds(self, nodes: float, widths: Mapping[int, float], lookup: bool) -> float:
        """Of one pass over a tree of `nodes` and its root, after widths[rows] draft passes; a lookup is free."""
        drafting = 0.0 if lookup else sum(count * self.draft.seconds(width) for width, count in widths.items())
        return self.target.seconds(nodes + 1) + drafting


# 36.9 GB is a Llama-3-70B shape at 4.25 bits (PROBE 7), 23 GB/s what SpecExec's published pass times imply for PCIe 4
# (RESEARCH 1.3, 6.1). Draft: an 8B shape at 4.25 bits. Assumed: 1,008 GB/s and half of 165 Tflop/s, the card's data sheet.
GPU = Profile("RTX 4090, PCIe 4", Model(36.9e9, 23e9, 139e9, 82e12), Model(4.3e9, 1008e9, 16.1e9, 82e12))

# 70B shape at 4.25 bits with 18 GiB pinned, 4.05 GB/s from SSD, 0.092 s a node at 8-bit activations (PROBE 2, 7);
# draft: Llama-3.2-1B's shape, 788 MB a pass, memory 47 GB/s, 1.3 Top/s (PROBE 1, 3).
SSD = Profile("two cores, SSD", Model(36.9e9 - 18 * 2**30, 4.05e9, 139e9, 1.5e12), Model(0.788e9, 47e9, 2.5e9, 1.3e12))

# An 8B shape at 4.25 bits in memory. Assumed: 60 GB/s (two channels of DDR5), and of 8 cores four times the 0.65 Top/s that
# one core of PROBE 3 reaches with 512-bit registers: half for each of twice-as-narrow registers. Draft as above.
LAPTOP = Profile("8-core laptop, RAM", Model(4.3e9, 60e9, 16.1e9, 2.6e12), Model(0.788e9, 60e9, 2.5e9, 2.6e12))

PROFILES = (GPU, SSD, LAPTOP)
