"""Predictions against what came true, in buckets of equal counts, lowest predictions first."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Vector = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Bucket:
    """Means over a bucket. standard_error: of realised - predicted. z: their difference in standard errors."""

    count: int
    predicted: float
    realised: float
    standard_error: float
    z: float


def _least(predicted: Vector) -> float:
    """Variance of the sum of independent events: what a handful of hits, or none at all, does not show. 0 for counts."""
    return float((predicted * (1 - predicted)).sum()) if predicted.max() <= 1 else 0.0


def _bucket(predicted: Vector, realised: Vector, group: npt.NDArray[np.int64]) -> Bucket:
    off = realised - predicted
    sums = np.bincount(group, weights=off, minlength=int(group.max()) + 1)
    error = float(np.sqrt(max((sums**2).sum(), _least(predicted)))) / len(off)
    return Bucket(len(off), float(predicted.mean()), float(realised.mean()), error, float(off.mean()) / error if error else 0.0)


def buckets(predicted: Sequence[float], realised: Sequence[float], group: Sequence[int], count: int = 10) -> list[Bucket]:
    """`count` buckets by prediction. Members of a group (the nodes of one pass) err together: errors are added up by group,
    and spread about zero, which they do where the predictions are right."""
    order = np.argsort(np.asarray(predicted), kind="stable")
    p, r, g = np.asarray(predicted, dtype=np.float64), np.asarray(realised, dtype=np.float64), np.asarray(group, dtype=np.int64)
    return [_bucket(p[part], r[part], g[part]) for part in np.array_split(order, count) if len(part)]


def table(title: str, found: Sequence[Bucket]) -> str:
    """Markdown."""
    lines = [f"\n{title}\n", "| count | predicted | realised | standard error | z |", "|---:|---:|---:|---:|---:|"]
    lines += [f"| {b.count} | {b.predicted:.4f} | {b.realised:.4f} | {b.standard_error:.4f} | {b.z:+.1f} |" for b in found]
    return "\n".join(lines)
