"""The chance that a node is accepted, calibrated against the picks at the nodes the walk reached.

At most one child of a node holds the pick: siblings share one conditional logit whose other outcome is none of them.
Picks at nodes that the walk did not reach would teach too little trust: off the target's own path drafts agree less.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from specexec.online import OnlineNewton, Vector

UNSURE = 0.02  # the least share that siblings leave to all other tokens
SMALLEST, DEEPEST = -9.0, -8.0  # logs of beliefs below which nothing more is told apart
TRUST = np.array([0.0, 1.0, 1.0, 0.0, 0.0, 0.0])  # the source's own belief
PRIOR = 0.3  # of 3, 1 and 0.3 the one with the least loss over 200 passes at T = 0 and 1 together
FEATURES = len(TRUST)
FIRST = np.ones(1, np.bool_)  # the first node starts a family


@dataclass(frozen=True, eq=False)
class Families:
    """Nodes that were proposed, the children of one parent together.

    sources[k]: what proposed them. x[k, FEATURES]: what is known about a node, given that its parent is reached. first: of
    each family, its first node. family[k]: number of each node's.
    """

    sources: Sequence[str]
    x: Vector
    first: npt.NDArray[np.int64]
    family: npt.NDArray[np.int64]

    @classmethod
    def of(
        cls, sources: Sequence[str], parents: Sequence[int], edge: Sequence[float], depth: Sequence[int],
        parent_score: Sequence[float],
    ) -> "Families":
        """parents[k]: equal ones lie together. edge: logs of the source's belief in each; parent_score: in its parent."""
        of, x = np.asarray(parents), np.empty((FEATURES, len(parents)))
        starts = np.concatenate((FIRST, of[1:] != of[:-1]))
        first, family = starts.nonzero()[0], starts.cumsum() - 1
        belief = np.maximum(edge, SMALLEST)
        left = 1.0 - np.add.reduceat(np.exp(belief), first)
        x[0], x[1], x[2] = 1.0, belief, -np.log(np.minimum(np.maximum(left, UNSURE), 1.0))[family]
        x[3], x[4], x[5] = np.log1p(depth), np.maximum(parent_score, DEEPEST), belief * belief / 8
        return cls(sources, x.T, first, family)


class Chance:
    """One vector of weights a source; starts as trust in the source's own belief."""

    def __init__(self) -> None:
        self._fits: dict[str, OnlineNewton] = {}

    def _fit(self, source: str) -> OnlineNewton:
        return self._fits.setdefault(source, OnlineNewton(TRUST, PRIOR))

    def of(self, families: Families) -> Vector:
        """P(the target's pick at the parent is this node's token) of each node."""
        z = self._logits(families)
        top = np.maximum(np.maximum.reduceat(z, families.first), 0.0)
        shares = np.exp(z - top[families.family])
        whole = np.exp(-top) + np.add.reduceat(shares, families.first)
        return shares / whole[families.family]  # type: ignore[no-any-return]

    def _logits(self, families: Families) -> Vector:
        weights = {source: self._fit(source).weights for source in set(families.sources)}
        if len(weights) == 1:
            found: Vector = families.x @ next(iter(weights.values()))
            return found
        return (np.array([weights[source] for source in families.sources]) * families.x).sum(1)  # type: ignore[no-any-return]

    def learn(self, families: Families, hits: Sequence[bool]) -> None:
        """Of every node that the walk reached and that has children: hits[k], whether each of these held the pick."""
        off, p, x = np.array(hits, dtype=np.float64), self.of(families), families.x
        steps = {}
        for source in set(families.sources):
            own = np.array([one == source for one in families.sources])
            weighed = x * (p * own)[:, None]
            means = np.add.reduceat(weighed, families.first)
            steps[source] = ((off - p) * own) @ x, weighed.T @ x - means.T @ means
        for source, (gradient, curvature) in steps.items():
            self._fit(source).step(gradient, curvature)
