"""The target's own laws, remembered by the tokens they came after.   Token Recycling, Luo et al. 2024

A law after the same three tokens says more than one after the same two, and several say more than the last: what is known
after a run of tokens is mixed with what is known after its shorter ends, the more of it the oftener the run was seen.
"""

from collections import OrderedDict, deque
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from specexec.online import Ids, Vector

KEPT = 4  # laws of one run
REMEMBERED = 1 << 16  # runs of tokens
DOUBT = 0.2  # laws that what is known after shorter ends weighs as much as

Law = tuple[npt.NDArray[np.int32], npt.NDArray[np.float32], float]  # ids[k], p[k], and their sum


class Laws:
    """Laws by runs of tokens, the token that they come below being the last."""

    def __init__(self) -> None:
        self._after: OrderedDict[tuple[int, ...], deque[Law]] = OrderedDict()

    def learn(self, before: Sequence[int], ids: Sequence[int], p: Vector) -> None:
        """The target's law p of its favourite `ids` below the last of the tokens `before`."""
        law = np.array(ids, dtype=np.int32), p.astype(np.float32), float(p.sum())
        for length in range(1, len(before) + 1):
            run = tuple(before[-length:])
            self._after.setdefault(run, deque(maxlen=KEPT)).append(law)
            self._after.move_to_end(run)
        while len(self._after) > REMEMBERED:
            self._after.popitem(last=False)

    def below(self, before: Sequence[int]) -> tuple[Ids, Vector] | None:
        """What is known below the last of these tokens: ids[k] in order, and their p[k], whose sum is less than one."""
        found: list[Law] = []
        shares: list[float] = []
        left = 1.0
        for length in range(len(before), 0, -1):
            laws = self._after.get(tuple(before[-length:]), ())
            share = left / (len(laws) + DOUBT)
            found += laws
            shares += [share] * len(laws)
            left -= share * sum(said for _, _, said in laws)
        return _mixed(found, shares) if found else None


def _mixed(laws: Sequence[Law], shares: Sequence[float]) -> tuple[Ids, Vector]:
    """Their sum, a share of each."""
    ids, place = np.unique(np.concatenate([ids for ids, _, _ in laws]), return_inverse=True)
    p = np.concatenate([p for _, p, _ in laws]) * np.repeat(shares, [len(ids) for ids, _, _ in laws])
    return ids.astype(np.int64), np.bincount(place, p).astype(np.float64)
