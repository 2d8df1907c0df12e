"""The chance that a node is accepted, calibrated against the picks at every evaluated node."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from specexec.online import OnlineNewton, Vector

SURE = 1e-4


@dataclass(frozen=True)
class Edge:
    """What is known about a node, given that its parent is reached."""

    source: str
    score: float  # log of the source's belief in this edge
    depth: int
    parent_score: float  # log of the belief that the parent is reached


def features(edge: Edge) -> Vector:
    belief = min(max(float(np.exp(edge.score)), SURE), 1 - SURE)
    return np.array([1.0, np.log(belief / (1 - belief)), np.log1p(edge.depth), max(edge.parent_score, -8.0)])


class Chance:
    """One logistic model a source; starts as trust in the source's own belief."""

    def __init__(self) -> None:
        self._fits: dict[str, OnlineNewton] = {}

    def _fit(self, source: str) -> OnlineNewton:
        return self._fits.setdefault(source, OnlineNewton(np.array([0.0, 1.0, 0.0, 0.0]), prior=3.0))

    def of(self, edge: Edge) -> float:
        """P(the target's pick at the parent is this node's token)."""
        return float(1 / (1 + np.exp(-self._fit(edge.source).weights @ features(edge))))

    def learn(self, seen: Iterable[tuple[Edge, bool, float]]) -> None:
        """(edge, hit, weight) of a pass's edges."""
        sums: dict[str, tuple[Vector, Vector]] = {}
        for edge, hit, weight in seen:
            x, p = features(edge), self.of(edge)
            gradient, curvature = sums.get(edge.source, (np.zeros(4), np.zeros((4, 4))))
            sums[edge.source] = gradient + weight * (hit - p) * x, curvature + weight * p * (1 - p) * np.outer(x, x)
        for source, (gradient, curvature) in sums.items():
            self._fit(source).step(gradient, curvature)
