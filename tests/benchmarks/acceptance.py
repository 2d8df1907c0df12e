"""How likely a drawn sibling is accepted: DySpec takes the draft's probability, which is learned to be better here."""

import numpy as np

from specexec.online import OnlineNewton, Vector

SURE = 1e-6


def features(share: float, rank: int) -> Vector:
    share = min(max(share, SURE), 1 - SURE)
    return np.array([1.0, np.log(share / (1 - share)), np.log(rank)])


class Acceptance:
    """Logistic in the sibling's probability and rank, fitted to the exact acceptance probabilities of slots that were tried."""

    def __init__(self) -> None:
        self._fit = OnlineNewton(np.array([1.0, 0.3, -1.0]), prior=1.0)
        self._ranks: dict[int, tuple[float, int]] = {}  # {rank: (sum of acceptances, tries)}
        self._seen: list[tuple[Vector, float]] = []

    def of(self, share: float, rank: int) -> float:
        """P(accepted) of a token whose probability among the tokens left is `share`."""
        return float(1 / (1 + np.exp(-self._fit.weights @ features(share, rank))))

    def of_rank(self, rank: int) -> float:
        """The same before the token is drawn: Sequoia's positional acceptance."""
        total, tries = self._ranks.get(rank, (0.0, 0))
        return (total + 2 / (1 + rank)) / (tries + 2)

    def see(self, share: float, rank: int, accepted: float) -> None:
        """A slot was tried, and `accepted` was its chance."""
        total, tries = self._ranks.get(rank, (0.0, 0))
        self._ranks[rank] = total + accepted, tries + 1
        self._seen.append((features(share, rank), accepted))

    def finish(self) -> None:
        """A pass ended: learns what it saw."""
        gradient, curvature = np.zeros(3), np.zeros((3, 3))
        for x, accepted in self._seen:
            p = 1 / (1 + np.exp(-self._fit.weights @ x))
            gradient += (accepted - p) * x
            curvature += p * (1 - p) * np.outer(x, x)
        if self._seen:
            self._fit.step(gradient, curvature)
        self._seen = []
