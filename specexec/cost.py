"""What a pass costs: seconds as a function of its tokens, learnt from passes as they happen."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from specexec.online import Vector

KNOTS = np.unique(np.round(2 ** np.arange(0, 13.5, 0.5)))  # tokens: 1 to 8,192, two an octave
KINKS = 2.0 ** np.arange(1, 13)  # tokens that one pass may take for the price of one: 2 to 4,096, any as likely
STEP = 0.2  # how far the log of a price may stray from a simple shape between two knots
ANY = 20.0  # the same of the price of one token
NOISE = 0.1  # of the log of one measurement
OUTLIER, FASTER = 0.3, 1.5  # logs beyond which a slower one counts less and less, since something else ran, and a faster one
WAITING = 0.03  # seconds of passes that become known together at the least, but for the first few: it takes 0.3 ms
FEW = 16
FIRST = 3  # measurements before any of them can be told to be an outlier
HOPE = 0.2  # standard deviations by which a price that is not known yet is believed to be lower
MEMORY = 0.97  # weight of all earlier passes when a new one comes: a context grows, neighbours come and go


def _walk() -> Vector:
    """The precision of log seconds at KNOTS: independent steps from one to the next."""
    steps = np.diff(np.eye(len(KNOTS)), axis=0)
    precision = steps.T @ steps / STEP**2
    precision[0, 0] += 1 / ANY**2
    return precision


LOG_KNOTS = np.log2(KNOTS)
SHAPES = np.log(0.01) + np.log1p(KNOTS[:, None] / KINKS) - np.log1p(1 / KINKS)  # [KNOTS, KINKS]: what the walk may be about
PRECISION = _walk()


@dataclass(frozen=True, eq=False)
class Curve:
    """Log seconds at KNOTS, on lines between: walks about any of SHAPES, whose evidence is slowly forgotten.

    It never falls with the tokens. evidence, pull: of the passes, in a Gaussian's natural parameters.
    """

    evidence: Vector = field(default_factory=lambda: np.zeros_like(PRECISION))
    pull: Vector = field(default_factory=lambda: np.zeros(len(KNOTS)))
    mean: Vector = field(default_factory=lambda: SHAPES.mean(1))
    spread: Vector = field(default_factory=lambda: np.full(len(KNOTS), ANY))
    seen: int = 0

    def due(self, seconds: Iterable[float]) -> bool:
        """Whether passes that took so long, one after another, are worth the time it takes to know of them."""
        return self.seen < FEW or sum(seconds) > WAITING

    def measured(self, tokens: Sequence[int], seconds: Sequence[float]) -> "Curve":
        """With some more passes known, all of which count as one when older ones are forgotten."""
        weights, logs = _weights(tokens), np.log(seconds)
        surprise = logs - weights @ self.mean
        trust = np.ones(len(logs)) if self.seen < FIRST else 1 / (1 + (surprise / np.where(surprise > 0, OUTLIER, FASTER)) ** 2)
        memory = MEMORY / (1 + (min(0.0, surprise.min()) / FASTER) ** 2)
        evidence = memory * self.evidence + (weights.T * trust) @ weights / NOISE**2
        pull = memory * self.pull + weights.T @ (trust * logs) / NOISE**2
        mean, spread = _believed(evidence, pull)
        return Curve(evidence, pull, mean, spread, self.seen + 1)

    def seconds(self, tokens: npt.ArrayLike, hope: float = 0.0) -> Vector:
        """Of passes of so many tokens. hope: by how many standard deviations the unknown is believed to be cheaper."""
        falling = self.mean - hope * self.spread
        return np.exp(np.interp(np.log2(np.maximum(tokens, 1)), LOG_KNOTS, np.maximum.accumulate(falling)))


def _believed(evidence: Vector, pull: Vector) -> tuple[Vector, Vector]:
    """(mean, standard deviation) of log seconds at KNOTS, over all SHAPES by how well they explain what was measured."""
    covariance = np.linalg.inv(PRECISION + evidence)
    off = pull[:, None] - evidence @ SHAPES
    means = SHAPES + covariance @ off
    fit = ((pull[:, None] - 0.5 * evidence @ SHAPES) * SHAPES + 0.5 * off * (covariance @ off)).sum(0)
    likely = np.exp(fit - fit.max())
    likely /= likely.sum()
    mean = means @ likely
    return mean, np.sqrt(np.diag(covariance) + (means - mean[:, None]) ** 2 @ likely)


def _weights(tokens: Sequence[int]) -> Vector:
    """[k, KNOTS] of the knots, in the values at tokens[k]."""
    at = np.interp(np.log2(tokens), LOG_KNOTS, np.arange(len(KNOTS)))
    return np.maximum(0.0, 1.0 - np.abs(np.arange(len(KNOTS)) - at[:, None]))
