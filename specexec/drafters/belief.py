"""What a source of guesses believes about the target's pick, knowing the noise.

score of token v = log softmax_v (a log q[v] + b g[v]): at b = 0, a = 1 SpecExec's own ranking (Svirschevski et al. 2024).
a and b are fitted to the target's picks.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch

from specexec.kernels.logits import Ranking
from specexec.online import Ids, OnlineNewton, Vector

TYPICAL_NOISE = 0.5772  # the mean of a Gumbel variable stands for all tokens that were not looked at
SMALLEST = 1e-6


@dataclass(frozen=True)
class Candidates:
    """The tokens looked at below one node: ids[k], log q[k], all finite, noise g[k] (zeros where greedy)."""

    ids: Ids
    log_q: Vector
    noise: Vector

    @cached_property
    def others(self) -> tuple[float, float]:
        """log q and noise of everything else together."""
        rest = math.log(max(SMALLEST, 1.0 - float(np.exp(self.log_q).sum())))
        return rest, TYPICAL_NOISE if self.noise.any() else 0.0

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

    def ranking(self, noise: Sequence[torch.Tensor]) -> Ranking:
        """Of rows with that noise, or with none."""
        return Ranking(noise, self.a, self.b, SMALLEST, TYPICAL_NOISE if noise else 0.0)

    def scores(self, one: Candidates) -> Vector:
        """[k]; all other tokens weigh as one."""
        return scores(one, self.a, self.b)

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


def scores(one: Candidates, a: float, b: float) -> Vector:
    z, (rest, noise) = a * one.log_q + b * one.noise, one.others
    others = a * rest + b * noise
    top = float(z.max(initial=others))
    return z - (top + math.log(float(np.exp(z - top).sum()) + math.exp(others - top)))


def features(rows: list[Candidates]) -> tuple[Vector, npt.NDArray[np.bool_]]:
    """([n, k + 1, 2]: (log q, g) of each candidate, last of everything else together; bool[n, k + 1]: which there are)."""
    widest = max(len(row.ids) for row in rows)
    x, there = np.zeros((len(rows), widest + 1, 2)), np.zeros((len(rows), widest + 1), np.bool_)
    for at, row in enumerate(rows):
        x[at, : len(row.ids), 0], x[at, : len(row.ids), 1] = row.log_q, row.noise
        there[at, : len(row.ids)] = True
    x[:, -1], there[:, -1] = [row.others for row in rows], True
    return x, there
