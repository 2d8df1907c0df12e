"""The compiled kernels of every instruction set this machine runs, one at a time, and what they leave, read back plainly."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from ctypes import POINTER
from functools import cache

import pytest
import torch

from specexec.kernels import library, table
from specexec.kernels.attention import DIMS, ROWS
from specexec.kernels.linear import Activations
from specexec.kinds import GROUP

ULP = 2.0**-24  # the largest relative error of one fp32 rounding


@cache
def tables() -> dict[str, table.Table]:
    """The kernels of each instruction set, best first; none where there is no library."""
    found = library.load()
    if found is None:
        return {}
    chosen = library.instruction_set()
    found.specexec_table.restype = POINTER(table._Raw)
    made = {}
    for name in found.specexec_available().decode().split(","):
        found.specexec_choose(name.encode())
        made[name] = table.Table(found.specexec_table().contents)
    found.specexec_choose(chosen.encode())
    return made


SETS = tuple(tables()) or ("none",)


def need() -> None:
    """Skips where there are no compiled kernels, and fails there in CI."""
    if tables():
        return
    reason = f"no compiled kernels: {library.why_not()}"
    if os.environ.get("CI", "").lower() in ("1", "true"):
        pytest.fail(reason)
    pytest.skip(reason)


@contextmanager
def using(name: str) -> Iterator[table.Table]:
    """All of Python computes with this instruction set."""
    need()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(table, "table", lambda: tables()[name])
        yield tables()[name]


PLAIN = "plain torch"


@contextmanager
def plainly() -> Iterator[None]:
    """Nothing is computed by a kernel."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(table, "table", lambda: None)
        yield


@contextmanager
def threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def unpacked(made: Activations, width: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(codes int64[n, groups, 64], sums[n, groups, 2], scales[n, groups]) out of tiles of `width` tokens (kernels.h)."""
    count = made.scale.numel()
    return *plane(made, made.q[: count * GROUP], made.sum[: 2 * count], width), tiles(made, made.scale, width)


def unpacked_low(made: Activations, width: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(codes, sums) of the second plane, and where it is there: bool[n, groups]."""
    count = made.scale.numel()
    return *plane(made, made.q[count * GROUP :], made.sum[2 * count :], width), tiles(made, made.fine, width).bool()


def tiles(made: Activations, x: torch.Tensor, width: int) -> torch.Tensor:
    """[n, groups] of [groups, w] a tile."""
    groups = -(-made.columns // GROUP)
    return torch.cat([part.view(groups, -1).T for part in x.split(width * groups)])


def plane(made: Activations, q: torch.Tensor, sums: torch.Tensor, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    groups, codes = -(-made.columns // GROUP), []
    for part in q.long().split(width * groups * GROUP):
        w = part.numel() // (groups * GROUP)
        if made.bits == 8:
            codes.append(part.view(groups, GROUP // 4, w, 4).permute(2, 0, 1, 3).reshape(w, groups, GROUP))
        else:  # of every 4 columns 0, 2, 1, 3
            codes.append(part.view(groups, GROUP // 4, 2, w, 2).permute(3, 0, 1, 4, 2).reshape(w, groups, GROUP))
    halves = [part.view(groups, 2, -1).permute(2, 0, 1) for part in sums.split(2 * width * groups)]
    return torch.cat(codes), torch.cat(halves)


def cached_rows(keys: torch.Tensor, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """bf16 (k, v)[kv_heads, capacity, dim] of a cache's own order (kernels.h)."""
    heads, capacity, dim = values.shape
    k = keys.permute(0, 1, 3, 2, 4).reshape(heads, capacity // ROWS * ROWS, dim)
    v = values.view(heads, capacity, dim // DIMS, DIMS // 2, 2).transpose(-1, -2).reshape(heads, capacity, dim)
    return k, v
