"""What a pass costs: seconds as a function of its tokens, learnt from passes as they happen."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from specexec.online import Vector

KNOTS = np.unique(np.round(2 ** np.arange(0, 13.5, 0.5)))  # tokens: 1 to 8,192, two an octave
KINK = 16.0  # tokens that one pass takes for the price of one, on a machine of which nothing is known
STEP = 0.4  # how far the log of a price may stray from that between two knots
ANY = 20.0  # the same of the price of one token
NOISE = 0.1  # of the log of one measurement
OUTLIER = 0.3  # beyond it a measurement counts less and less: something else ran
FIRST = 3  # measurements before any of them can be told to be an outlier
HOPE = 1.0  # standard deviations by which a price that is not known yet is believed to be lower
MEMORY = 0.97  # weight of all earlier passes when a new one comes: a context grows, neighbours come and go


def _prior() -> tuple[Vector, Vector]:
    """(log seconds at KNOTS up to a constant, their precision): a walk of independent steps about 1 + n / KINK."""
    steps = np.diff(np.eye(len(KNOTS)), axis=0)
    precision = steps.T @ steps / STEP**2
    precision[0, 0] += 1 / ANY**2
    mean = np.log1p(KNOTS / KINK)
    return mean - mean[0] + np.log(0.01), precision


MEAN, PRECISION = _prior()


@dataclass(frozen=True, eq=False)
class Curve:
    """Log seconds at KNOTS, on lines between: a Gaussian whose evidence is slowly forgotten. Never falls with the tokens."""

    evidence: Vector = field(default_factory=lambda: np.zeros_like(PRECISION))
    pull: Vector = field(default_factory=lambda: np.zeros_like(MEAN))
    mean: Vector = field(default_factory=lambda: MEAN)
    spread: Vector = field(default_factory=lambda: np.full_like(MEAN, ANY))
    seen: int = 0

    def measured(self, tokens: Sequence[int], seconds: Sequence[float]) -> "Curve":
        """With some more passes known, all of which count as one when older ones are forgotten."""
        weights, logs = _weights(tokens), np.log(seconds)
        surprise = logs - weights @ self.mean
        trust = np.ones(len(logs)) if self.seen < FIRST else 1 / (1 + (surprise / OUTLIER) ** 2)
        evidence = MEMORY * self.evidence + (weights.T * trust) @ weights / NOISE**2
        pull = MEMORY * self.pull + weights.T @ (trust * (logs - weights @ MEAN)) / NOISE**2
        covariance = np.linalg.inv(PRECISION + evidence)
        return replace(self, evidence=evidence, pull=pull, mean=MEAN + covariance @ pull, seen=self.seen + 1,
                       spread=np.sqrt(np.diag(covariance)))

    def seconds(self, tokens: npt.ArrayLike, hope: float = 0.0) -> Vector:
        """Of passes of so many tokens. hope: by how many standard deviations the unknown is believed to be cheaper."""
        falling = self.mean - hope * self.spread
        return np.exp(np.interp(np.log2(np.maximum(tokens, 1)), np.log2(KNOTS), np.maximum.accumulate(falling)))


def _weights(tokens: Sequence[int]) -> Vector:
    """[k, KNOTS] of the knots, in the values at tokens[k]."""
    at = np.interp(np.log2(tokens), np.log2(KNOTS), np.arange(len(KNOTS)))
    return np.maximum(0.0, 1.0 - np.abs(np.arange(len(KNOTS)) - at[:, None]))
