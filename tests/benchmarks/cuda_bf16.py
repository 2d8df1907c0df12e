"""Flash decoding over keys and values in bf16, of the same shape as the quantised kernels: what those are measured against."""

import torch
import triton
import triton.language as tl

from specexec.kernels.splits_triton import joined, put, rows_together, shared_out, soften
from specexec.kv.attention import Partial

KEYS = 64  # at a time
WARPS, STAGES = 4, 3


@triton.jit
def _attend(Q, K, V, PARTS, SUMS, rows, keys, each, dim, M: tl.constexpr, N: tl.constexpr, D: tl.constexpr):
    head, split = tl.program_id(1).to(tl.int64), tl.program_id(2)
    row, column, key = tl.program_id(0) * M + tl.arange(0, M), tl.arange(0, D), tl.arange(0, N)
    q = tl.load(Q + (head * rows + row[:, None]) * dim + column[None, :],
                mask=(row[:, None] < rows) & (column[None, :] < dim), other=0.0)
    most, total, mixed = tl.full([M], float("-inf"), tl.float32), tl.zeros([M], tl.float32), tl.zeros([M, D], tl.float32)
    for start in range(split * each, tl.minimum(keys, (split + 1) * each), N):
        at = (head * keys + start + key) * dim
        k = tl.load(K + at[None, :] + column[:, None], mask=column[:, None] < dim, other=0.0)
        weights, fade, most, total = soften(tl.dot(q, k, input_precision="ieee"), most, total)
        v = tl.load(V + at[:, None] + column[None, :], mask=column[None, :] < dim, other=0.0)
        mixed = tl.dot(weights.to(v.dtype), v, mixed * fade[:, None], input_precision="ieee")
    part = (split * tl.num_programs(1) + head) * rows + row
    put(PARTS + part[:, None] * dim + column[None, :], mixed, most, total, row, column, rows, dim, SUMS + part)


def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> Partial:
    """fp32 out[heads, n, dim] of scaled q[heads, n, dim] over k, v[kv_heads, keys, dim]; keys: whole 64s."""
    (kv_heads, keys, dim), (heads, n) = k.shape, q.shape[:2]
    rows = heads // kv_heads * n
    together = rows_together(rows)
    blocks = triton.cdiv(rows, together)
    splits, each = shared_out(keys // KEYS, blocks * kv_heads, q.device)
    parts, sums = (torch.empty(splits, heads * n, *size, device=q.device) for size in ((dim,), ()))
    _attend[(blocks, kv_heads, splits)](
        q.reshape(kv_heads, rows, dim).contiguous(), k, v, parts, sums, rows, keys, each * KEYS, dim,
        M=together, N=KEYS, D=max(16, triton.next_power_of_2(dim)), num_warps=WARPS, num_stages=STAGES)
    out, total = joined(parts, sums)
    return Partial(out.view(heads, n, dim), total.view(heads, n))
