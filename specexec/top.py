"""The largest entries of long rows, without sorting them."""

from typing import NamedTuple

import torch

BLOCK = 64
SHORT = 8192  # entries of a row that is faster looked through than divided


class Winner(NamedTuple):
    token: torch.Tensor  # int64[n]: the lowest id with the largest value
    lead: torch.Tensor  # fp32[n]: largest - second largest


def _blocks(x: torch.Tensor) -> torch.Tensor:
    short = -x.shape[-1] % BLOCK
    padded = torch.nn.functional.pad(x, (0, short), value=-torch.inf) if short else x
    return padded.view(*padded.shape[:-1], -1, BLOCK)


def winner(x: torch.Tensor) -> Winner:
    """The argmax of each row of fp32[n, V], the lowest id winning a tie, and by how much it won."""
    if x.shape[-1] <= SHORT:
        best, token = x.max(-1, keepdim=True)  # of equal ones the first
        return Winner(token.squeeze(1), best.squeeze(1) - x.scatter(1, token, -torch.inf).amax(-1))
    blocks = _blocks(x)
    best = blocks.amax(-1)
    block = best.argmax(-1, keepdim=True)
    inside = blocks.gather(1, block[..., None].expand(-1, 1, BLOCK)).squeeze(1)
    place = inside.argmax(-1, keepdim=True)
    value = inside.gather(1, place)
    others = inside.scatter(1, place, -torch.inf).amax(-1)
    rest = best.scatter(1, block, -torch.inf).amax(-1)
    return Winner((block * BLOCK + place).squeeze(1), value.squeeze(1) - torch.maximum(others, rest))


def top(x: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(values fp32[n, k], ids int64[n, k]) of each row's k largest entries, descending.

    The k largest lie within the k blocks with the largest maxima: only those are searched.
    """
    if x.shape[-1] <= max(4 * k, 1024) or x.shape[-1] <= k * BLOCK:
        values, ids = x.topk(min(k, x.shape[-1]), dim=-1)
        return values, ids
    blocks = _blocks(x)
    chosen = blocks.amax(-1).topk(k, dim=-1).indices
    values, places = blocks.gather(1, chosen[..., None].expand(-1, -1, BLOCK)).flatten(1).topk(k, dim=-1)
    ids = chosen.gather(1, places // BLOCK) * BLOCK + places % BLOCK
    return (values, ids) if int(ids.max()) < x.shape[-1] else x.topk(k, dim=-1)  # padding: fewer than k are finite
