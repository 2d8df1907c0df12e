"""What a pass will take: a pure function of the model, where its weights live, and rates that were measured."""

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass

from offload.footprint import Footprint
from offload.machine import Machine
from offload.plan import Placement

DISK, ARITHMETIC, ATTENTION = "disk", "arithmetic", "attention"


@dataclass(frozen=True)
class Prediction:
    """Seconds of a pass: what streams comes beside the rest, and the longer of the two counts. limit: what takes longest.

    arithmetic: of its weights; attention: over what was said before; calls: what its layers take besides.
    """

    stream: float
    arithmetic: float
    attention: float = 0.0
    calls: float = 0.0

    @property
    def computing(self) -> float:
        return self.arithmetic + self.attention + self.calls

    @property
    def seconds(self) -> float:
        return max(self.stream, self.computing)

    @property
    def limit(self) -> str:
        if self.stream > self.computing:
            return DISK
        return ATTENTION if self.attention > self.arithmetic else ARITHMETIC


def predict(of: Footprint, placed: Placement, machine: Machine, n: int, context: int = 0) -> Prediction:
    """A pass of n tokens below a context of so many."""
    kv = of.kv_token * context
    streamed = placed.streamed + (of.kv_position(placed.kv) * context if placed.kv_disk else 0)
    return Prediction(streamed / machine.disk, arithmetic(of.multiplied, machine.products, n),
                      attention(kv, of.group, machine.seeing(placed.kv), n), of.layers * machine.layer)


def attention(kv: int, group: int, rates: Mapping[int, float], n: int) -> float:
    """Seconds in which n tokens see so many bytes of keys and values, counted as bf16 whatever they are kept in.

    group: queries of a token that share a head of them.
    """
    return arithmetic(kv, rates, n * group) if rates and kv else 0.0


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
