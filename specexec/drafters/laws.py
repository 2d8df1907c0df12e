"""The target's own laws, remembered by the tokens they came after.   Token Recycling, Luo et al. 2024

A law after the same four tokens says more than one after the same three, and several say more than the last: what is known
after a run of tokens is mixed with what is known after its shorter ends, the more of it the oftener the run was seen.
"""

import math
from collections import OrderedDict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from specexec.online import Ids, Vector

KEPT = 16  # laws of one run
REMEMBERED = 1 << 16  # runs of tokens
DOUBT = 0.5  # laws that what is known after shorter ends weighs as much as
UNSEEN = math.log(1e-6)  # of a token that is not among a law's favourites
AGREED = 0.2  # how much of the mixture, in logs, is what laws agree on, their geometric mean: it knows the first of them better


class Law(NamedTuple):
    """ids[k], p[k] and above[k] = log p - UNSEEN. said: the sum of p."""

    ids: npt.NDArray[np.int32]
    p: npt.NDArray[np.float32]
    above: npt.NDArray[np.float32]
    said: float


class Laws:
    """Laws by runs of tokens, the token that they come below being the last."""

    def __init__(self) -> None:
        self._after: OrderedDict[tuple[int, ...], list[Law]] = OrderedDict()

    def learn(self, before: Sequence[int], ids: Sequence[int], log_p: Vector) -> None:
        """The target's law p of its favourite `ids` below the last of the tokens `before`."""
        p, above = np.exp(log_p), np.maximum(log_p, UNSEEN) - UNSEEN
        law = Law(np.array(ids, dtype=np.int32), p.astype(np.float32), above.astype(np.float32), float(p.sum()))
        for length in range(1, len(before) + 1):
            run = tuple(before[-length:])
            laws = self._after.setdefault(run, [])
            laws.append(law)
            del laws[:-KEPT]
            self._after.move_to_end(run)
        while len(self._after) > REMEMBERED:
            self._after.popitem(last=False)

    def below(self, before: Sequence[int]) -> tuple[Ids, Vector] | None:
        """What is known below the last of these tokens: ids[k] in order, and their p[k], whose sum is less than one."""
        found: list[Law] = []
        shares: list[float] = []
        left = 1.0
        for length in range(len(before), 0, -1):
            laws = self._after.get(tuple(before[-length:]), [])
            share = left / (len(laws) + DOUBT)
            found += laws
            shares += [share] * len(laws)
            left -= share * sum(law.said for law in laws)
        return _mixed(found, shares) if found else None


def _mixed(laws: Sequence[Law], shares: Sequence[float]) -> tuple[Ids, Vector]:
    """Their arithmetic mean to the power of 1 - AGREED times their geometric one to that of AGREED, each law by its share."""
    ids, place = np.unique(np.concatenate([law.ids for law in laws]), return_inverse=True)
    share = np.repeat(shares, [len(law.ids) for law in laws])
    p = np.bincount(place, share * np.concatenate([law.p for law in laws]))
    above = np.bincount(place, share * np.concatenate([law.above for law in laws]))
    mixed = p ** (1 - AGREED) * np.exp(AGREED * (UNSEEN + above / sum(shares)))
    return ids.astype(np.int64), mixed / (mixed.sum() + 1 - p.sum())
