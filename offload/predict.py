"""What a pass will take: a pure function of the model, where its weights live, and rates that were measured."""

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass

from offload.footprint import Footprint
from offload.machine import Machine
from offload.plan import Placement

DISK, ARITHMETIC = "disk", "arithmetic"


@dataclass(frozen=True)
class Prediction:
    """Seconds of a pass: it takes the larger of its two parts, which go on side by side. limit: which one that is."""

    stream: float
    arithmetic: float

    @property
    def seconds(self) -> float:
        return max(self.stream, self.arithmetic)

    @property
    def limit(self) -> str:
        return DISK if self.stream > self.arithmetic else ARITHMETIC


def predict(of: Footprint, placed: Placement, machine: Machine, n: int) -> Prediction:
    """A pass of n tokens over weights alone: attention over what was said before is not in it."""
    return Prediction(placed.streamed / machine.disk, arithmetic(of.multiplied, machine.products, n))


def arithmetic(weights: int, products: Mapping[int, float], n: int) -> float:
    """Seconds in which n tokens are multiplied with so many weights.

    products: {tokens: weights a second}; seconds a weight lie on lines between those, and beyond the last go with n.
    """
    counts = sorted(products)
    if n >= counts[-1]:
        return weights / products[counts[-1]] * n / counts[-1]
    after = max(bisect_left(counts, n), 1)
    low, high = counts[after - 1], counts[after]
    share = (max(n, low) - low) / (high - low)
    return weights * ((1 - share) / products[low] + share / products[high])
