"""Small models that learn while text is written: a Newton step a pass, old passes slowly forgotten."""

import numpy as np
import numpy.typing as npt

Vector = npt.NDArray[np.float64]
Ids = npt.NDArray[np.int64]
MEMORY = 0.995  # weight of all earlier passes when a new one comes


class OnlineNewton:
    """Weights w[d] of a concave log-likelihood. prior: how many units of curvature hold w at `start`."""

    def __init__(self, start: Vector, prior: float = 10.0) -> None:
        self.start, self.prior = start, prior
        self.weights = start.copy()
        self._curvature = np.zeros((len(start), len(start)))

    def step(self, gradient: Vector, curvature: Vector) -> None:
        """gradient[d] and curvature[d, d] (minus the Hessian) of one pass at the present weights."""
        self._curvature = MEMORY * self._curvature + curvature
        ridge = self.prior * np.eye(len(self.start))
        pull = (1 - MEMORY) * self.prior * (self.start - self.weights)
        self.weights = self.weights + np.linalg.solve(self._curvature + ridge, gradient + pull)
