"""Attention over bf16 keys and values in blocks of 64 absolute positions (attention.cpp), and what it is in plain torch."""

import ctypes
from collections.abc import Sequence

import torch

from specexec import tree
from specexec.kernels import memory, table

ROWS, DIMS = 16, 32  # keys lie in tiles of 16 rows; a head is filled with zeros to whole 32s
EIGHT = 8  # rows that are gathered together
EIGHTS = 8  # of them in a block

Buffers = tuple[torch.Tensor, torch.Tensor]
"""(keys, values) of a cache, as empty_cache makes them."""


def padded(head_dim: int) -> int:
    return -(-head_dim // DIMS) * DIMS


def empty_cache(kv_heads: int, capacity: int, head_dim: int) -> tuple[torch.Tensor, torch.Tensor]:
    """bf16 keys[kv_heads, capacity/16, dim/2, 16, 2] and values[kv_heads, capacity, dim], zeros; capacity: whole 64s."""
    dim = padded(head_dim)
    return (memory.zeros((kv_heads, capacity // ROWS, dim // 2, ROWS, 2), torch.bfloat16),
            memory.zeros((kv_heads, capacity, dim), torch.bfloat16))


def struct(keys: torch.Tensor, values: torch.Tensor) -> table.Cache:
    return table.Cache(keys.data_ptr(), values.data_ptr(), values.shape[1], values.shape[0], values.shape[2])


def gathered(keys: torch.Tensor, values: torch.Tensor, eights: torch.Tensor, position: int = 0) -> table.Gathered:
    """Rows of a cache that another one's queries see before its own. eights: int32[kv_heads, blocks, 8], as kernels.h says.

    position: of that cache's first row.
    """
    return table.Gathered(keys.data_ptr(), values.data_ptr(), eights.data_ptr(), values.shape[1], eights.shape[1], position)


def place(keys: torch.Tensor, values: torch.Tensor, k: torch.Tensor, v: torch.Tensor, row: int) -> None:
    """k, v[kv_heads, n, head_dim] to the cache's rows from `row` on: what rope does, in torch."""
    place_keys(keys, k, row)
    values[:, row : row + k.shape[1], _places(k.shape[2])] = v.to(values.dtype)


def place_keys(keys: torch.Tensor, k: torch.Tensor, row: int) -> None:
    """k[kv_heads, n, head_dim] alone."""
    rows = torch.arange(row, row + k.shape[1])
    keys[:, rows // ROWS, : k.shape[2] // 2, rows % ROWS] = k.to(keys.dtype).view(*k.shape[:2], -1, 2).transpose(0, 1)


def taken_keys(keys: torch.Tensor, count: int) -> torch.Tensor:
    """fp32[kv_heads, count, dim]: a cache's first keys."""
    tiles = keys[:, : -(-count // ROWS)].float()
    return tiles.transpose(2, 3).flatten(3).flatten(1, 2)[:, :count]


def mean_keys(keys: torch.Tensor, first: int, last: int) -> torch.Tensor:
    """fp32[kv_heads, last - first, dim]: the means of eights first..last - 1 of a cache's keys."""
    start = first // 2
    tiles = keys[:, start : -(-last // 2)].float()
    eights = tiles.view(*tiles.shape[:3], 2, EIGHT, 2).mean(4)  # [kv_heads, tiles, dim/2, 2, 2]
    return eights.transpose(2, 3).flatten(3).flatten(1, 2)[:, first - 2 * start : last - 2 * start]


def taken(of: Buffers, heads: torch.Tensor, eights: torch.Tensor) -> Buffers:
    """(keys[m, dim/2, 8, 2], values[m, 8, dim]) of a cache's eights of rows; heads, eights: int64[m]."""
    keys, values = _eights(of)
    return keys[heads, eights // 2, :, eights % 2], values[heads, eights]


@torch.inference_mode()
def put(to: Buffers, heads: torch.Tensor, eights: torch.Tensor, of: Buffers) -> None:
    """A cache's eights become what was taken of others."""
    keys, values = _eights(to)
    keys[heads, eights // 2, :, eights % 2], values[heads, eights] = of


def laid(k: torch.Tensor, v: torch.Tensor) -> Buffers:
    """fp32 k, v[m, 8, dim] as taken of a cache."""
    values = torch.empty(v.shape, dtype=torch.bfloat16)
    values[..., _places(v.shape[2])] = v.bfloat16()
    return k.bfloat16().view(*k.shape[:2], -1, 2).transpose(1, 2), values


def pick(to: Buffers, first: int, of: Buffers, eights: torch.Tensor) -> None:
    """The eights from `first` on of one cache become the eights int[kv_heads, m] of another, each head its own."""
    heads, at = torch.meshgrid(torch.arange(len(eights)), first + torch.arange(eights.shape[1]), indexing="ij")
    put(to, heads, at, taken(of, heads, eights.long()))


def _places(dim: int) -> torch.Tensor:
    """Where each of a value's numbers lies."""
    at = torch.arange(dim)
    return at // 32 * 32 + at % 16 * 2 + at % 32 // 16


def _eights(of: Buffers) -> Buffers:
    keys, values = of
    return keys.view(*keys.shape[:3], 2, EIGHT, 2), values.view(len(values), -1, EIGHT, values.shape[2])


def attend(
    q: torch.Tensor, cache: table.Cache, committed: int, parents: torch.Tensor, first: torch.Tensor,
    out: torch.Tensor, log_sum_exp: torch.Tensor | None = None,
) -> None:
    """fp32 out[n, heads, head_dim] of roped and scaled fp32 q[n, heads, dim].

    parents: int32[t], of the tree's rows, the last n of which ask; t = 0: n queries of the committed rows alone.
    first: int32[n], the first position each sees. log_sum_exp: fp32[n, heads].
    """
    what = table.Attention(q.data_ptr(), out.data_ptr(), log_sum_exp.data_ptr() if log_sum_exp is not None else None,
                           q.shape[1], out.shape[2])
    asked = table.Pass(parents.data_ptr(), first.data_ptr(), committed, len(parents), len(q), table.threads())
    table.needed().attend(ctypes.byref(what), ctypes.byref(cache), ctypes.byref(asked))


def reference(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, committed: int, parents: Sequence[int], first: Sequence[int],
) -> tuple[torch.Tensor, torch.Tensor]:
    """(float64 out[n, heads, head_dim], log_sum_exp[n, heads]) of q[n, heads, head_dim] over k, v[kv_heads, rows, head_dim]."""
    outs, sums = [], []
    for i, row in enumerate(range(len(parents) - len(q), len(parents))):
        rows = [*range(committed), *path(parents, row, committed)][first[i] :]
        group = q.shape[1] // len(k)
        scores = torch.einsum("hgd,hrd->hgr", q[i].double().view(len(k), group, -1), k[:, rows].double())
        sums.append(scores.logsumexp(-1).flatten())
        outs.append(torch.einsum("hgr,hrd->hgd", scores.softmax(-1), v[:, rows].double()).flatten(0, 1))
    return torch.stack(outs), torch.stack(sums)


def gathered_reference(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, seen: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The same over rows of which each KV head has its own: seen is bool[n, kv_heads, rows]."""
    grouped = q.double().view(len(q), len(k), -1, q.shape[2])
    scores = torch.einsum("nhgd,hrd->nhgr", grouped, k.double()).masked_fill(~seen[:, :, None], -torch.inf)
    out = torch.einsum("nhgr,hrd->nhgd", scores.softmax(-1), v.double())
    return out.flatten(1, 2), scores.logsumexp(-1).flatten(1, 2)


def path(parents: Sequence[int], row: int, committed: int) -> list[int]:
    """The cache's rows from the tree's top down to `row`; none for a negative one."""
    return [committed + at for at in tree.path(parents, row)]
