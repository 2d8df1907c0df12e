"""Attention of grouped queries over dense keys, whole or in parts that merge by log-sum-exp.   FlashAttention, Dao et al. 2022

The query heads of one KV head are folded into its rows of queries, so K and V are never repeated.
"""

from collections.abc import Iterator
from functools import reduce
from typing import NamedTuple

import torch

SCORES = 2**25  # entries of one block of scores: bounds the memory of a long prefill


class Partial(NamedTuple):
    out: torch.Tensor  # [heads, n, dim], normalised
    log_sum_exp: torch.Tensor  # fp32[heads, n]


def _query_blocks(q: torch.Tensor, keys: int) -> Iterator[slice]:
    step = max(1, SCORES // max(1, q.shape[0] * keys))
    for start in range(0, q.shape[1], step):
        yield slice(start, start + step)


def _scores(q: torch.Tensor, k: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """fp32[kv_heads, group, n, keys]; bias fp32[n, t], or [kv_heads, 1, n, t], belongs to the last t keys."""
    heads, n, dim = q.shape
    folded = q.reshape(k.shape[0], heads // k.shape[0] * n, dim)
    scores = (folded @ k.mT).float().view(k.shape[0], heads // k.shape[0], n, k.shape[1])
    scores[..., scores.shape[-1] - bias.shape[-1] :] += bias
    return scores


def _mix(weights: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """[heads, n, dim] of weights[kv_heads, group, n, keys] and v[kv_heads, keys, dim]."""
    mixed = weights.flatten(1, 2) @ v
    return mixed.view(-1, weights.shape[2], v.shape[2])


def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """out[heads, n, dim] of scaled q[heads, n, dim] over k, v[kv_heads, keys, dim]; bias fp32[n, t] on the last t keys."""
    blocks = _query_blocks(q, k.shape[1])
    found = [_mix(_scores(q[:, b], k, bias[b]).softmax(-1).to(v.dtype), v) for b in blocks]
    return found[0] if len(found) == 1 else torch.cat(found, 1)


def attend_part(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, bias: torch.Tensor) -> Partial:
    """The same over one part of the keys, ready to merge; a row that sees none of them weighs nothing.

    bias may differ by KV head: fp32[kv_heads, 1, n, t].
    """
    outs, sums = [], []
    for block in _query_blocks(q, k.shape[1]):
        scores = _scores(q[:, block], k, bias[..., block, :])
        total = scores.logsumexp(-1, keepdim=True)
        weights = (scores - total).exp().nan_to_num(0.0)
        outs.append(_mix(weights.to(v.dtype), v))
        sums.append(total.squeeze(-1).flatten(0, 1))
    return Partial(torch.cat(outs, 1), torch.cat(sums, 1))


def join(a: Partial, b: Partial) -> Partial:
    """Two parts as one, in fp32."""
    total = torch.logaddexp(a.log_sum_exp, b.log_sum_exp)
    shares = ((part.log_sum_exp - total).exp().nan_to_num(0.0).unsqueeze(-1) for part in (a, b))
    mixed = [part.out * share for part, share in zip((a, b), shares, strict=True)]
    return Partial(mixed[0] + mixed[1], total)


def merge(*parts: Partial) -> torch.Tensor:
    """Attention over all parts at once, in the dtype of the last."""
    return reduce(join, parts).out.to(parts[-1].out.dtype)
