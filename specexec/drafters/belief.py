"""What a source of guesses believes about the target's pick, knowing the noise.

score of token v = log softmax_v (a log q[v] + b g[v]): at b = 0, a = 1 SpecExec's own ranking (Svirschevski et al. 2024).
a and b are fitted to the target's picks.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from specexec.online import OnlineNewton, Vector

Ids = npt.NDArray[np.int64]
TYPICAL_NOISE = 0.5772  # the mean of a Gumbel variable stands for all tokens that were not looked at
SMALLEST = 1e-6
LEAST = -1e4  # stands for -inf where it is multiplied


@dataclass(frozen=True)
class Candidates:
    """The tokens looked at below one node: ids[k], log q[k], noise g[k] (zeros where greedy)."""

    ids: Ids
    log_q: Vector
    noise: Vector

    def features(self) -> Vector:
        """[k + 1, 2]: (log q, g) of each, then of everything else together."""
        rest = np.log(max(SMALLEST, 1.0 - float(np.exp(self.log_q).sum())))
        others = [[rest, TYPICAL_NOISE if self.noise.any() else 0.0]]
        return np.concatenate([np.stack([self.log_q, self.noise], 1), others])

    def outcome(self, pick: int) -> int:
        """The row of `features` that holds `pick`."""
        found = np.flatnonzero(self.ids == pick)
        return int(found[0]) if len(found) else len(self.ids)


class Belief:
    """a and b, and how they learn."""

    def __init__(self) -> None:
        self._fit = OnlineNewton(np.ones(2))

    @property
    def a(self) -> float:
        return float(self._fit.weights[0])

    @property
    def b(self) -> float:
        return float(self._fit.weights[1])

    def scores(self, log_q: Vector, noise: Vector) -> Vector:
        """[n, k] of candidates below n nodes, all others of a node weighing as one. -inf where log_q is."""
        z = np.where(np.isfinite(log_q), self.a * np.maximum(log_q, LEAST) + self.b * noise, -np.inf)
        rest = np.log(np.maximum(SMALLEST, 1.0 - np.exp(log_q).sum(-1, keepdims=True)))
        others = self.a * rest + self.b * TYPICAL_NOISE * noise.any(-1, keepdims=True)
        top = np.maximum(z.max(-1, keepdims=True), others)
        return z - top - np.log(np.exp(z - top).sum(-1, keepdims=True) + np.exp(others - top))  # type: ignore[no-any-return]

    def learn(self, seen: list[tuple[Candidates, int, float]]) -> None:
        """(candidates, pick, weight) of every node of a pass that this source expanded."""
        gradient, curvature = np.zeros(2), np.zeros((2, 2))
        for candidates, pick, weight in seen:
            x = candidates.features()
            z = x @ self._fit.weights
            p = np.exp(z - _log_sum_exp(z))
            mean = p @ x
            gradient += weight * (x[candidates.outcome(pick)] - mean)
            curvature += weight * ((x * p[:, None]).T @ x - np.outer(mean, mean))
        if seen:
            self._fit.step(gradient, curvature)


def _log_sum_exp(z: Vector) -> float:
    top = float(z.max())
    return top + float(np.log(np.exp(z - top).sum()))
