"""The chance that a node is accepted, calibrated against the picks at the nodes the walk reached.

At most one child of a node holds the pick: siblings share one conditional logit whose other outcome is none of them.
Picks at nodes that the walk did not reach would teach too little trust: off the target's own path drafts agree less.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from specexec.online import OnlineNewton, Vector

UNSURE = 0.02  # the least share that siblings leave to all other tokens
SMALLEST, DEEPEST = -9.0, -8.0  # logs of beliefs below which nothing more is told apart
TRUST = np.array([0.0, 1.0, 1.0, 0.0, 0.0, 0.0])  # the source's own belief


@dataclass(frozen=True)
class Edge:
    """What is known about a node, given that its parent is reached."""

    source: str
    score: float  # log of the source's belief in this edge
    depth: int
    parent_score: float  # log of the belief that the parent is reached


Family = Sequence[Edge]  # all children of one node


def features(family: Family) -> Vector:
    """[k, 6] of a node's k children."""
    belief = np.array([max(edge.score, SMALLEST) for edge in family])
    others = np.log(np.clip(1.0 - np.exp(belief).sum(), UNSURE, 1.0))
    depth, above = np.log1p(family[0].depth), max(family[0].parent_score, DEEPEST)
    same = np.tile([1.0, -others, depth, above], (len(family), 1))
    return np.column_stack((same[:, 0], belief, same[:, 1:], belief**2 / 8))


class Chance:
    """One vector of weights a source; starts as trust in the source's own belief."""

    def __init__(self) -> None:
        self._fits: dict[str, OnlineNewton] = {}

    def _fit(self, source: str) -> OnlineNewton:
        return self._fits.setdefault(source, OnlineNewton(TRUST, prior=1.0))

    def of(self, family: Family) -> Vector:
        """P(the target's pick at the parent is this node's token) of each of the siblings."""
        return self._shares(family, features(family))

    def _shares(self, family: Family, x: Vector) -> Vector:
        z = (np.stack([self._fit(edge.source).weights for edge in family]) * x).sum(1)
        top = max(0.0, float(z.max()))
        weights = np.exp(z - top)
        return weights / (np.exp(-top) + weights.sum())  # type: ignore[no-any-return]

    def learn(self, seen: Iterable[tuple[Family, Sequence[bool]]]) -> None:
        """(family, hits) of every node that the walk reached and that has children."""
        sums: dict[str, tuple[Vector, Vector]] = {}
        for family, hits in seen:
            x = features(family)
            off, p = np.array(hits, dtype=np.float64), self._shares(family, x)
            for source in {edge.source for edge in family}:
                own = np.array([edge.source == source for edge in family])
                gradient, curvature = sums.get(source, (np.zeros(6), np.zeros((6, 6))))
                mean = p[own] @ x[own]
                spread = (x[own] * p[own, None]).T @ x[own] - np.outer(mean, mean)
                sums[source] = gradient + (off - p)[own] @ x[own], curvature + spread
        for source, (gradient, curvature) in sums.items():
            self._fit(source).step(gradient, curvature)
