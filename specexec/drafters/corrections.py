"""What a draft got wrong after the same tokens before, and will get wrong again.

After every pass the target's laws are known at all nodes of the tree, on the path and off it: log p - log q of its favourites
is remembered by the last three, two and one tokens, and added where the same tokens come again.
"""

from collections import OrderedDict
from collections.abc import Iterator, Sequence

import numpy as np
import torch

from specexec.kernels.logits import Off
from specexec.online import Ids, Vector

ORDERS = ((3, 0.2), (2, 0.12), (1, 0.15))  # (tokens, share of the error that is believed): fitted on the bundled pair
REMEMBERED = 1 << 16  # runs of tokens
LARGEST = 4.0  # nats of one error
LONGEST = max(length for length, _ in ORDERS)

NONE, NOTHING = np.empty(0, np.int64), np.empty(0)

Error = tuple[Ids, Vector]  # ids[k], log p - log q [k]


class Corrections:
    """Errors by the tokens they came after, a node's own being the last."""

    def __init__(self) -> None:
        self._after: OrderedDict[tuple[int, ...], Error] = OrderedDict()

    def off(self, before: Sequence[tuple[int, ...]], temperature: float = 1.0) -> Off:
        """What logits at a temperature are known to be off by, in rows after before[n]."""
        found = [list(self._known(tokens)) for tokens in before]
        errors = [error for row in found for error in row]
        starts = np.cumsum([0, *(sum(len(ids) for _, ids, _ in row) for row in found)])
        ids = np.concatenate([NONE, *(ids for _, ids, _ in errors)])
        return Off(starts, ids, np.concatenate([NOTHING, *(share / temperature * off for share, _, off in errors)]))

    def learn(self, before: tuple[int, ...], ids: Ids, off: Vector) -> None:
        """off: log p - log q at temperature 1 (up to a constant) of the target's favourite `ids` after `before`."""
        error = ids, np.minimum(np.maximum(np.where(np.isfinite(off), off, 0.0), -LARGEST), LARGEST)
        for length, _ in ORDERS:
            if length <= len(before):
                self._after[before[-length:]] = error
                self._after.move_to_end(before[-length:])
        while len(self._after) > REMEMBERED:
            self._after.popitem(last=False)

    def _known(self, tokens: tuple[int, ...]) -> Iterator[tuple[float, Ids, Vector]]:
        for length, share in ORDERS:
            if length <= len(tokens) and (error := self._after.get(tokens[-length:])) is not None:
                yield share, *error


def added(x: torch.Tensor, off: Off) -> torch.Tensor:
    """fp32[n, V], with what its rows are off by; x itself where that is nothing."""
    if not len(off.ids):
        return x
    rows = np.arange(len(x)).repeat(np.diff(off.starts))
    places = torch.from_numpy(rows).to(x.device), torch.from_numpy(off.ids).to(x.device)
    return x.index_put(places, torch.from_numpy(off.values).to(x), accumulate=True)
