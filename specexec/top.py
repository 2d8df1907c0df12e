"""The largest entries of long rows, without sorting them: by our kernel, or in plain torch through maxima of blocks."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from specexec.kernels import logits

BLOCK = 64
SHORT = 8192  # entries of a row that is faster looked through than divided


class Winner(NamedTuple):
    token: list[int]  # of each row the lowest id with the largest value
    lead: list[float]  # largest - second largest


class Best(NamedTuple):
    values: torch.Tensor  # fp32[n, k], descending
    ids: torch.Tensor  # int64[n, k]
    log_sum_exp: torch.Tensor  # fp32[n], of the whole row


def best(x: torch.Tensor, k: int, noise: Sequence[torch.Tensor] = (), a: float = 1.0, b: float = 1.0) -> Best:
    """The k largest of a x + b noise of fp32 x[n, V], with the log-sum-exp of x. noise: fp32[V] of each row, or none."""
    k = min(k, x.shape[-1])
    if logits.fits(x, k):
        total = torch.empty(len(x))
        return Best(*logits.read(x, k, noise, a, b, total), total)
    return Best(*top(torch.add(torch.stack(list(noise)) * b, x, alpha=a) if noise else x, k), x.logsumexp(-1))


def winner(x: torch.Tensor, noise: Sequence[torch.Tensor] = (), known: Best | None = None) -> Winner:
    """The argmax of each row of fp32 x[n, V] + noise, the lowest id winning a tie, and by how much it won.

    known: the best of x, if somebody has them: our kernel's begin with the winner, torch's put a tie in any order.
    """
    if known is not None and not noise and ordered(x):
        return _first(known.values, known.ids)
    if x.shape[0] == 1 and x.is_cpu:
        row = x.numpy()[0]
        return _lone(row + noise[0].numpy() if noise else row.copy())
    if ordered(x):
        return _first(*logits.read(x, 2, noise, 1.0, 1.0, None))
    token, lead = _winners(x + torch.stack(list(noise)) if noise else x)
    return Winner(token.tolist(), lead.tolist())


def ordered(x: torch.Tensor) -> bool:
    """Whether our kernel ranks such rows: equal entries by id."""
    return x.shape[-1] > 1 and logits.fits(x, 2)


def _first(values: torch.Tensor, ids: torch.Tensor) -> Winner:
    return Winner(ids[:, 0].tolist(), (values[:, 0] - values[:, 1]).tolist())


def _lone(row: npt.NDArray[np.float32]) -> Winner:
    """Of a single row, which is written over: numpy takes less time than it takes to ask the kernel."""
    token = int(row.argmax())
    most = row[token]
    row[token] = -np.inf
    return Winner([token], [float(most - row[row.argmax()])])


def _winners(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(token int64[n], lead fp32[n])"""
    if x.shape[-1] <= SHORT:
        most, token = x.max(-1, keepdim=True)  # of equal ones the first
        return token.squeeze(1), most.squeeze(1) - x.scatter(1, token, -torch.inf).amax(-1)
    blocks = _blocks(x)
    highest = blocks.amax(-1)
    block = highest.argmax(-1, keepdim=True)
    inside = blocks.gather(1, block[..., None].expand(-1, 1, BLOCK)).squeeze(1)
    place = inside.argmax(-1, keepdim=True)
    value = inside.gather(1, place)
    others = inside.scatter(1, place, -torch.inf).amax(-1)
    rest = highest.scatter(1, block, -torch.inf).amax(-1)
    return (block * BLOCK + place).squeeze(1), value.squeeze(1) - torch.maximum(others, rest)


def top(x: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(values fp32[n, k], ids int64[n, k]) of each row's k largest entries, descending.

    The k largest lie within the k blocks with the largest maxima: only those are searched.
    """
    k = min(k, x.shape[-1])
    if logits.fits(x, k):
        return logits.read(x, k, (), 1.0, 1.0, None)
    if x.shape[-1] <= max(4 * k, 1024) or x.shape[-1] <= k * BLOCK:
        values, ids = x.topk(k, dim=-1)
        return values, ids
    blocks = _blocks(x)
    chosen = blocks.amax(-1).topk(k, dim=-1).indices
    values, places = blocks.gather(1, chosen[..., None].expand(-1, -1, BLOCK)).flatten(1).topk(k, dim=-1)
    ids = chosen.gather(1, places // BLOCK) * BLOCK + places % BLOCK
    return (values, ids) if int(ids.max()) < x.shape[-1] else x.topk(k, dim=-1)  # padding: fewer than k are finite


def _blocks(x: torch.Tensor) -> torch.Tensor:
    short = -x.shape[-1] % BLOCK
    padded = torch.nn.functional.pad(x, (0, short), value=-torch.inf) if short else x
    return padded.view(*padded.shape[:-1], -1, BLOCK)
