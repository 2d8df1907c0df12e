"""How surprising counts are, given what was expected of them."""

import numpy as np
import numpy.typing as npt
import torch

Counts = npt.NDArray[np.int64] | npt.NDArray[np.float64]


def g_test(seen: Counts, expected: npt.NDArray[np.float64]) -> float:
    """p of a log-likelihood ratio test of seen[k] against expected[k] > 0 of the same sum."""
    ratios = np.where(seen > 0, seen, 1) / expected
    return _beyond(2 * float((seen * np.log(ratios)).sum()), len(seen) - 1)


def chi_square(seen: Counts, expected: npt.NDArray[np.float64]) -> float:
    """p of Pearson's test of the same."""
    return _beyond(float(((seen - expected) ** 2 / expected).sum()), len(seen) - 1)


def _beyond(statistic: float, degrees: int) -> float:
    """The chance that a chi-square variable is larger."""
    half = torch.tensor([degrees / 2, max(statistic, 0.0) / 2], dtype=torch.float64)
    return float(torch.special.gammaincc(half[0], half[1]))
