"""What a draft got wrong after the same tokens before, and will get wrong again.

After every pass the target's laws are known at all nodes of the tree, on the path and off it: log p - log q of its favourites
is remembered by the last three, two and one tokens, and added where the same tokens come again.
"""

from collections import OrderedDict
from collections.abc import Iterator, Sequence

import numpy as np
import torch

from specexec.drafters.belief import Ids
from specexec.online import Vector

ORDERS = ((3, 0.2), (2, 0.12), (1, 0.15))  # (tokens, share of the error that is believed): fitted on the bundled pair
REMEMBERED = 1 << 16  # runs of tokens
LARGEST = 4.0  # nats of one error
LONGEST = max(length for length, _ in ORDERS)

Error = tuple[Ids, Vector]  # ids[k], log p - log q [k]


class Corrections:
    """Errors by the tokens they came after, a node's own being the last."""

    def __init__(self) -> None:
        self._after: OrderedDict[tuple[int, ...], Error] = OrderedDict()

    def apply(self, x: torch.Tensor, before: Sequence[tuple[int, ...]], temperature: float = 1.0) -> torch.Tensor:
        """fp32[n, V]: logits at a temperature, with what is remembered after before[n]."""
        found = [(row, share, *error) for row, tokens in enumerate(before) for share, error in self._known(tokens)]
        if not found:
            return x
        rows = np.repeat([row for row, *_ in found], [len(ids) for _, _, ids, _ in found])
        values = np.concatenate([share / temperature * off for _, share, _, off in found])
        places = torch.from_numpy(rows), torch.from_numpy(np.concatenate([ids for _, _, ids, _ in found]))
        return x.index_put([at.to(x.device) for at in places], torch.from_numpy(values).to(x), accumulate=True)

    def learn(self, before: tuple[int, ...], ids: Ids, off: Vector) -> None:
        """off: log p - log q at temperature 1 (up to a constant) of the target's favourite `ids` after `before`."""
        error = ids, np.minimum(np.maximum(np.where(np.isfinite(off), off, 0.0), -LARGEST), LARGEST)
        for length, _ in ORDERS:
            if length <= len(before):
                self._after[before[-length:]] = error
                self._after.move_to_end(before[-length:])
        while len(self._after) > REMEMBERED:
            self._after.popitem(last=False)

    def _known(self, tokens: tuple[int, ...]) -> Iterator[tuple[float, Error]]:
        for length, share in ORDERS:
            if length <= len(tokens) and (error := self._after.get(tokens[-length:])) is not None:
                yield share, error
