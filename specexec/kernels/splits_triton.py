"""What attention that is split over its keys needs on CUDA: a running softmax, and parts put together.

Imported where there is Triton alone.   Flash-Decoding, Dao et al. 2023
"""

import torch
import triton
import triton.language as tl

AT_ONCE = 16  # parts that a program of `_join` holds
WAVES = 2  # programs for each of the device's multiprocessors
INTERPRETED = 4  # parts where there is no device


@triton.jit
def soften(scores, most, total):
    """(weights of scores fp32[M, N], what the numbers so far are worth, the largest score now, the sum of weights)."""
    top = tl.maximum(most, tl.max(scores, 1))
    base = tl.where(top == float("-inf"), 0.0, top)
    weights = tl.exp(scores - base[:, None])
    fade = tl.exp(most - base)
    return weights, fade, top, total * fade + tl.sum(weights, 1)


@triton.jit
def put(at, out, most, total, row, column, rows, columns, sums):
    """fp32 out[M, D], not yet normalised, to `at`, and its log-sum-exp to `sums`."""
    seen = tl.where(total > 0, total, 1.0)
    inside = (row[:, None] < rows) & (column[None, :] < columns)
    tl.store(at, out / seen[:, None], mask=inside)
    tl.store(sums, tl.where(total > 0, most + tl.log(seen), float("-inf")), mask=row < rows)


@triton.jit
def _join(PARTS, SUMS, OUT, OUT_SUMS, rows, splits, dim, D: tl.constexpr, S: tl.constexpr):
    row, column = tl.program_id(0).to(tl.int64), tl.arange(0, D)
    most, total = float("-inf"), 0.0
    mixed = tl.zeros([D], tl.float32)
    for at in range(0, splits, S):
        split = at + tl.arange(0, S)
        sums = tl.load(SUMS + split * rows + row, mask=split < splits, other=float("-inf"))
        top = tl.maximum(most, tl.max(sums, 0))
        base = tl.where(top == float("-inf"), 0.0, top)
        fade, shares = tl.exp(most - base), tl.exp(sums - base)
        inside = (split[:, None] < splits) & (column[None, :] < dim)
        parts = tl.load(PARTS + (split[:, None] * rows + row) * dim + column[None, :], mask=inside, other=0.0)
        mixed = mixed * fade + tl.sum(parts * shares[:, None], 0)
        total = total * fade + tl.sum(shares, 0)
        most = top
    seen = tl.where(total > 0, total, 1.0)
    tl.store(OUT + row * dim + column, mixed / seen, mask=column < dim)
    tl.store(OUT_SUMS + row, tl.where(total > 0, most + tl.log(seen), float("-inf")))


def joined(parts: torch.Tensor, sums: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(out fp32[rows, dim], log_sum_exp fp32[rows]) of fp32 parts[splits, rows, dim] and sums[splits, rows]."""
    splits, rows, dim = parts.shape
    if splits == 1:
        return parts[0], sums[0]
    out, out_sums = torch.empty_like(parts[0]), torch.empty_like(sums[0])
    _join[(rows,)](parts, sums, out, out_sums, rows, splits, dim, D=triton.next_power_of_2(dim), S=AT_ONCE)
    return out, out_sums


def rows_together(rows: int) -> int:
    """Of queries, in one program."""
    return min(64, max(16, triton.next_power_of_2(rows)))


def shared_out(blocks: int, programs: int, device: torch.device) -> tuple[int, int]:
    """(splits, blocks of keys in each), so that the device is busy; programs: those of one split."""
    busy = WAVES * torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else INTERPRETED
    each = -(-blocks // max(1, min(blocks, busy // programs)))
    return -(-blocks // each), each
