"""Attention over quantised groups on CUDA: codes become numbers in registers alone.   QuantSpec, Tiwari et al. 2025

Scales go into the queries and the weights, so that what is multiplied are codes, which two bytes hold exactly: the last bits of
a number whose exponent is fixed (128 and more in bf16, 1,024 in fp16). What that adds is taken off each row's sum. The lower
nibbles are a second product, of the same operand in sixteenths. row_groups.py has the layout and the reference.
"""

import torch
import triton
import triton.language as tl

from specexec.kernels.hierarchical import GROUP, MIDDLE, SIXTEENTHS
from specexec.kernels.row_groups import RowGroups
from specexec.kernels.splits_triton import joined, put, rows_together, shared_out, soften
from specexec.kv.attention import Partial

KEYS = 64  # at a time
WARPS, STAGES = 4, 3
OPERANDS = {  # of products, by the queries' dtype: the bits a code is put into, and the number those are without it
    torch.bfloat16: (tl.bfloat16, 0x4300, 128),
    torch.float16: (tl.float16, 0x6400, 1024),
    torch.float32: (tl.float32, 0, 0),
}


@triton.jit
def _halves(at, seen, OF: tl.constexpr, BITS: tl.constexpr):
    """The channels of the low nibbles, and of the high ones."""
    packed = tl.load(at, mask=seen, other=0).to(tl.int16)
    low, high = packed & 15, packed >> 4
    if BITS:
        low, high = (low | BITS).to(OF, bitcast=True), (high | BITS).to(OF, bitcast=True)
    else:
        low, high = low.to(OF), high.to(OF)
    return low, high


@triton.jit
def _total(low, high):
    """fp32[M] of two operands."""
    return tl.sum(low.to(tl.float32), 1) + tl.sum(high.to(tl.float32), 1)


@triton.jit
def _attend(
    Q, UPPER, LOWER, SCALES, FIRST, PARTS, SUMS, rows, n, keys, each, head_of, record, scales_head, scales_record,
    HALF: tl.constexpr, D: tl.constexpr, M: tl.constexpr, N: tl.constexpr, OF: tl.constexpr, BITS: tl.constexpr,
    BASE: tl.constexpr, BOTH: tl.constexpr, WINDOWED: tl.constexpr,
    GROUP: tl.constexpr, MIDDLE: tl.constexpr, SIXTEENTHS: tl.constexpr,
):
    head, split = tl.program_id(1).to(tl.int64), tl.program_id(2)
    row, half, key = tl.program_id(0) * M + tl.arange(0, M), tl.arange(0, D), tl.arange(0, N)
    real = half < HALF
    asked = Q + (head * rows + row[:, None]) * (2 * HALF) + half[None, :]
    inside = (row[:, None] < rows) & real[None, :]
    q_low = tl.load(asked, mask=inside, other=0.0).to(tl.float32)
    q_high = tl.load(asked + HALF, mask=inside, other=0.0).to(tl.float32)
    if WINDOWED:
        first = tl.load(FIRST + row % n, mask=row < rows, other=0)
    most, total, offset = tl.full([M], float("-inf"), tl.float32), tl.zeros([M], tl.float32), tl.zeros([M], tl.float32)
    low, high = tl.zeros([M, D], tl.float32), tl.zeros([M, D], tl.float32)
    for start in range(split * each, tl.minimum(keys, (split + 1) * each), N):
        group, of = tl.cast(start // GROUP, tl.int64), start % GROUP + key
        scales, codes = SCALES + (head * scales_head + group * scales_record), head * head_of + group * record
        # keys: scales and zeros of channels
        s_low = tl.load(scales + half, mask=real, other=0.0).to(tl.float32)
        s_high = tl.load(scales + HALF + half, mask=real, other=0.0).to(tl.float32)
        z_low = tl.load(scales + 2 * HALF + half, mask=real, other=0.0).to(tl.float32)
        z_high = tl.load(scales + 3 * HALF + half, mask=real, other=0.0).to(tl.float32)
        x_low, x_high = (q_low * s_low[None, :]).to(OF), (q_high * s_high[None, :]).to(OF)
        at = codes + of[None, :] * HALF + half[:, None]
        k_low, k_high = _halves(UPPER + at, real[:, None], OF, BITS)
        scores = tl.dot(x_low, k_low, input_precision="ieee") + tl.dot(x_high, k_high, input_precision="ieee")
        added = tl.sum(q_low * z_low[None, :], 1) + tl.sum(q_high * z_high[None, :], 1) - BASE * _total(x_low, x_high)
        if BOTH:
            x_low, x_high = (x_low.to(tl.float32) / SIXTEENTHS).to(OF), (x_high.to(tl.float32) / SIXTEENTHS).to(OF)
            k_low, k_high = _halves(LOWER + at, real[:, None], OF, BITS)
            scores += tl.dot(x_low, k_low, input_precision="ieee") + tl.dot(x_high, k_high, input_precision="ieee")
            added -= (BASE + MIDDLE) * _total(x_low, x_high)
        scores += added[:, None]
        if WINDOWED:
            scores = tl.where(start + key[None, :] >= first[:, None], scores, float("-inf"))
        weights, fade, most, total = soften(scores, most, total)
        # values: scales and zeros of rows
        s_row = tl.load(scales + 4 * HALF + of).to(tl.float32)
        z_row = tl.load(scales + 4 * HALF + GROUP + of).to(tl.float32)
        w = (weights * s_row[None, :]).to(OF)
        at = codes + GROUP * HALF + of[:, None] * HALF + half[None, :]
        v_low, v_high = _halves(UPPER + at, real[None, :], OF, BITS)
        low = tl.dot(w, v_low, low * fade[:, None], input_precision="ieee")
        high = tl.dot(w, v_high, high * fade[:, None], input_precision="ieee")
        offset = offset * fade + tl.sum(weights * z_row[None, :], 1) - BASE * tl.sum(w.to(tl.float32), 1)
        if BOTH:
            w = (w.to(tl.float32) / SIXTEENTHS).to(OF)
            v_low, v_high = _halves(LOWER + at, real[None, :], OF, BITS)
            low, high = tl.dot(w, v_low, low, input_precision="ieee"), tl.dot(w, v_high, high, input_precision="ieee")
            offset -= (BASE + MIDDLE) * tl.sum(w.to(tl.float32), 1)
    part = (split * tl.num_programs(1) + head) * rows + row
    at = PARTS + part[:, None] * (2 * HALF) + half[None, :]
    put(at, low + offset[:, None], most, total, row, half, rows, HALF, SUMS + part)
    put(at + HALF, high + offset[:, None], most, total, row, half, rows, HALF, SUMS + part)


def attend(
    q: torch.Tensor, groups: RowGroups, count: int, bits: int, first: torch.Tensor | None = None,
) -> Partial:
    """As row_groups.attend has it; out in fp32. The scaled queries of a group of heads are one program's rows."""
    kv_heads, dim, (heads, n) = groups.kv_heads, groups.head_dim, q.shape[:2]
    rows, (of, held, base) = heads // kv_heads * n, OPERANDS[q.dtype]
    together = rows_together(rows)
    blocks = triton.cdiv(rows, together)
    splits, each = shared_out(count, blocks * kv_heads, q.device)
    parts, sums = (torch.empty(splits, heads * n, *size, device=q.device) for size in ((dim,), ()))
    asked = q.reshape(kv_heads, rows, dim).contiguous()
    _attend[(blocks, kv_heads, splits)](
        asked, groups.upper, groups.upper if bits == 4 else groups.lower, groups.scales, asked if first is None else first,
        parts, sums, rows, n, count * GROUP, each * GROUP, *groups.upper.stride()[:2],
        *groups.scales.stride()[:2],
        HALF=dim // 2, D=max(16, triton.next_power_of_2(dim // 2)), M=together, N=KEYS, OF=of, BITS=held, BASE=base,
        BOTH=bits == 8, WINDOWED=first is not None,
        GROUP=GROUP, MIDDLE=MIDDLE, SIXTEENTHS=SIXTEENTHS, num_warps=WARPS, num_stages=STAGES)
    out, total = joined(parts, sums)
    return Partial(out.view(heads, n, dim), total.view(heads, n))
