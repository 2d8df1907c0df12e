"""What a pass takes: its own work, or what it waits for, whichever is longer."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from specexec.cost import OUTLIER, Curve
from specexec.online import Vector

WAITS = 0.02  # the share of a pass that it must wait to be as long as what it waited for
MEMORY = 0.8  # weight of all earlier passes in that when a new one comes


@dataclass(frozen=True, eq=False)
class Price:
    """work: seconds of computing, by tokens. floor: seconds in which a pass's weights arrive; 0 where none are waited for.

    A pass that waited says both, so that the number of tokens where waiting ends is known before it was ever tried.
    """

    work: Curve = field(default_factory=Curve)
    floor: float = 0.0

    @property
    def seen(self) -> int:
        return self.work.seen

    def measured(self, tokens: Sequence[int], seconds: Sequence[float], waited: Sequence[float] | None = None) -> "Price":
        """With some more passes known, of which so many seconds were spent waiting."""
        waits = np.zeros(len(seconds)) if waited is None else np.minimum(waited, 0.99 * np.array(seconds))
        work = self.work.measured(tokens, (np.array(seconds) - waits).tolist())
        floor = self.floor
        for took, wait in zip(seconds, waits, strict=True):
            floor = _floor(floor, took, wait)
        return replace(self, work=work, floor=floor)

    def seconds(self, tokens: npt.ArrayLike, hope: float = 0.0) -> Vector:
        """Of passes of so many tokens. hope: by how many standard deviations the unknown is believed to be cheaper."""
        return np.maximum(self.floor, self.work.seconds(tokens, hope))


def _floor(before: float, seconds: float, waited: float) -> float:
    if waited <= WAITS * seconds:
        return min(before, seconds)
    if not before:
        return seconds
    surprise = float(np.log(seconds / before))
    return before * float(np.exp((1 - MEMORY) * surprise / (1 + (surprise / OUTLIER) ** 2)))
