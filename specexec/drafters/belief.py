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

    def place(self, pick: int) -> int:
        """Where `pick` is among them; -1 where it is not."""
        found = np.flatnonzero(self.ids == pick)
        return int(found[0]) if len(found) else -1


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
        if not seen:
            return
        x, there = features([candidates for candidates, *_ in seen])
        z = np.where(there, x @ self._fit.weights, -np.inf)
        p = np.exp(z - z.max(1, keepdims=True))
        p /= p.sum(1, keepdims=True)
        mean = (p[..., None] * x).sum(1)
        picked = x[np.arange(len(x)), [candidates.place(pick) for candidates, pick, _ in seen]]
        weight = np.array([weight for *_, weight in seen])
        second = (x * (weight[:, None] * p)[..., None]).reshape(-1, 2).T @ x.reshape(-1, 2)
        self._fit.step(weight @ (picked - mean), second - (mean * weight[:, None]).T @ mean)


def features(rows: list[Candidates]) -> tuple[Vector, npt.NDArray[np.bool_]]:
    """([n, k + 1, 2]: (log q, g) of each candidate, last of everything else together; bool[n, k + 1]: which there are)."""
    widest = max(len(row.ids) for row in rows)
    x, there = np.zeros((len(rows), widest + 1, 2)), np.zeros((len(rows), widest + 1), np.bool_)
    for at, row in enumerate(rows):
        x[at, : len(row.ids), 0], x[at, : len(row.ids), 1] = row.log_q, row.noise
        there[at, : len(row.ids)] = True
    rest = 1.0 - (np.exp(x[:, :-1, 0]) * there[:, :-1]).sum(1)
    x[:, -1, 0], x[:, -1, 1] = np.log(np.maximum(SMALLEST, rest)), TYPICAL_NOISE * x[:, :-1, 1].any(1)
    there[:, -1] = True
    return x, there
