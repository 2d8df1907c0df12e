"""Attention over quantised groups: what the kernels make of rows, bit by bit, and what they then read, against float64.

Products with codes are whole numbers, so what is lost beyond fp32's rounding is that of the queries and of the weights: one
part in 2 x 127 of the largest of a group where the upper nibbles alone are read, in 2 x 16,383 where both are.
"""

from ctypes import pointer

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from specexec.kernels import attention, hierarchical, table
from specexec.kernels.hierarchical import GROUP, Groups
from tests.kernels import normal, threads
from tests.specexec.kernels.test_attention import Made, made, placed

pytestmark = pytest.mark.usefixtures("every_set")
both = pytest.mark.parametrize("bits", [4, 8])
BETWEEN = {4: 1 / 127, 8: 1 / 16383}  # of the largest number of a row


def compressed(k: torch.Tensor, v: torch.Tensor) -> Groups:
    """Of k, v[kv_heads, groups * 128, head_dim]."""
    cache, groups = placed(k, v, k.shape[1]), Groups.empty(len(k), k.shape[1] // GROUP, k.shape[2], 8)
    struct, told = attention.struct(*cache), groups.struct(0, 8, True)
    struct.quantised = pointer(told)
    table.needed().compress(struct, 1, 0, groups.capacity, 2)
    return groups


def unpacked(codes: torch.Tensor, head_dim: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(keys, values)[kv_heads, groups, 128, head_dim] of one plane, as group.h lays it."""
    heads, groups, size = codes.shape
    dim = size // GROUP
    parts = codes.view(heads, groups, 2, 2, dim * 32)
    both = lambda x: torch.stack((x & 15, x >> 4), -3)  # noqa: E731  [..., half, lane, 4]
    keys = both(parts[:, :, :, 0].reshape(heads, groups, 2, 4, dim // 8, 16, 4))  # block, tile, unit, half, row, channel
    keys = keys.permute(0, 1, 2, 3, 6, 4, 5, 7).reshape(heads, groups, GROUP, dim)
    values = both(parts[:, :, :, 1].reshape(heads, groups, 2, dim // 16, 8, 16, 4))  # block, tile, unit, half, channel, row
    values = values.permute(0, 1, 2, 4, 5, 7, 3, 6).reshape(heads, groups, GROUP, dim)
    return keys[..., :head_dim], values[..., :head_dim]


def wide(seed: int, heads: int, rows: int, dim: int) -> torch.Tensor:
    """Numbers of bf16 with channels of all sizes, some constant, some far from 0."""
    sizes, middles = 10 ** (3 * normal(dim, seed=seed + 1)).clamp(-4, 4), 50 * normal(dim, seed=seed + 2)
    x = normal(heads, rows, dim, seed=seed) * sizes + middles
    x[..., :2] = torch.tensor([0.0, 3.0])
    return x.bfloat16().float()


@pytest.mark.parametrize("dim", [32, 64, 80, 128])
def test_codes_scales_and_zeros_are_the_references(dim: int) -> None:
    k, v = wide(1, 2, 2 * GROUP, dim), wide(7, 2, 2 * GROUP, dim)
    groups = compressed(k, v)
    assert groups.lower is not None
    inner = attention.padded(dim)
    for number, (x, along) in enumerate(((k, 2), (v, 3))):
        upper, lower, scale, zero = hierarchical.nibbles(x.unflatten(1, (-1, GROUP)), along)
        assert torch.equal(unpacked(groups.upper, dim)[number], upper.byte())
        assert torch.equal(unpacked(groups.lower, dim)[number], lower.byte())
        of = groups.scales[..., 2 * inner :] if number else groups.scales[..., : 2 * inner]
        scales, zeros = of.float().chunk(2, -1)
        size = GROUP if number else dim
        assert torch.equal(scales[..., :size].reshape(-1), scale.reshape(-1))
        assert torch.equal(zeros[..., :size].reshape(-1), zero.reshape(-1))


@settings(max_examples=30)
@given(seed=st.integers(0, 10**6), along=st.sampled_from([1, 2]))
def test_errors_are_half_a_step_at_the_most(seed: int, along: int) -> None:
    """Of four bits; of eight half a sixteenth of it, but a whole one where the error was the largest there is."""
    x = wide(seed, 2, GROUP, 64)
    upper, lower, scale, zero = hierarchical.nibbles(x, along)
    slack = 1e-6 * (x.abs() + zero.abs() + 15 * scale)  # fp32's
    for bits, steps in ((4, 0.5), (8, 1 / 16)):
        assert bool(((hierarchical.numbers(x, along, bits) - x).abs() <= steps * scale + slack).all())
    inner = (lower < 15) | (scale == 0)
    assert bool((((hierarchical.numbers(x, along, 8) - x).abs() <= scale / 32 + slack) | ~inner).all())
    assert bool(((upper >= 0) & (upper <= 15)).all())


def test_the_bytes_are_half_of_bf16_s_and_the_scales() -> None:
    for bits, share in ((8, (1 + 4 / GROUP) / 2), (4, (0.5 + 4 / GROUP) / 2)):
        groups = Groups.empty(8, 4, 128, bits)
        assert groups.nbytes == share * 2 * 2 * 8 * 4 * GROUP * 128


class Quantised:
    """A cache of whole groups, then `tail` rows in bf16, the last of them the queries'."""

    def __init__(self, case: Made, groups: int, bits: int) -> None:
        self.q, self.k, self.v = case
        self.bits, self.start = bits, groups * GROUP
        self.groups = compressed(self.k[:, : self.start], self.v[:, : self.start]) if groups else Groups.empty(0, 0, 32, 8)
        self.cache = placed(self.k[:, self.start :], self.v[:, self.start :], self.k.shape[1] - self.start)

    def found(
        self, parents: list[int], first: list[int], tiles: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        struct = attention.struct(*self.cache)
        told = self.groups.struct(self.start // GROUP, self.bits, tiles is None, tiles)
        struct.position, struct.quantised = self.start, pointer(told)
        q = torch.nn.functional.pad(self.q, (0, -self.q.shape[2] % attention.DIMS)).contiguous()
        out, sums = torch.full(self.q.shape, torch.nan), torch.full(self.q.shape[:2], torch.nan)
        committed = self.k.shape[1] - self.start - len(parents)
        attention.attend(q, struct, committed, torch.tensor(parents, dtype=torch.int32), torch.tensor(first, dtype=torch.int32),
                         out, sums)
        return out, sums

    def wanted(self, parents: list[int], first: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """Each query over its own path, whole groups of which before its own are quantised."""
        outs, sums = [], []
        committed = self.k.shape[1] - len(parents)
        for i, row in enumerate(range(len(parents) - len(self.q), len(parents))):
            rows = [*range(committed), *attention.path(parents, row, committed)]
            whole = (len(rows) - 1) // GROUP * GROUP
            k, v = hierarchical.rounded(self.k[:, rows[:whole]], self.v[:, rows[:whole]], self.bits)
            k, v = (torch.cat((part, of[:, rows[whole:]]), 1) for part, of in ((k, self.k), (v, self.v)))
            out, total = attention.reference(self.q[i : i + 1], k, v, len(rows) - 1, [-1], first[i : i + 1])
            outs.append(out)
            sums.append(total)
        return torch.cat(outs), torch.cat(sums)

    def check(self, parents: list[int], first: list[int]) -> None:
        (out, sums), (wanted, wanted_sums) = self.found(parents, first), self.wanted(parents, first)
        scale = self.v.abs().max()
        assert (out - wanted).abs().max() <= 8 * BETWEEN[self.bits] * scale
        assert (sums - wanted_sums).abs().max() <= 8 * BETWEEN[self.bits]


@both
@pytest.mark.parametrize(("heads", "kv_heads", "dim"), [(1, 1, 32), (4, 1, 64), (6, 2, 80), (3, 1, 96), (16, 1, 128)])
@pytest.mark.parametrize("count", [1, 2])
def test_a_query_over_groups_and_rows(bits: int, heads: int, kv_heads: int, dim: int, count: int) -> None:
    with threads(count):
        for groups, tail in ((1, 1), (2, 70), (33, 129)):
            one = Quantised(made(heads, kv_heads, dim, groups * GROUP + tail, 1), groups, bits)
            one.check([-1], [0])
            one.check([-1], [100])


@both
@pytest.mark.parametrize(("heads", "kv_heads", "dim"), [(1, 1, 32), (6, 2, 80), (16, 1, 128)])
@pytest.mark.parametrize("share", [0.05, 0.4, 1.0])
def test_chosen_tiles_of_groups(bits: int, heads: int, kv_heads: int, dim: int, share: float) -> None:
    """Each KV head sees tiles of its own, and all a query's own rows."""
    for groups, window in ((1, None), (5, 300), (40, None)):
        case = made(heads, kv_heads, dim, groups * GROUP + 7, 3)
        tiles, seen = some_tiles(kv_heads, groups, share), torch.zeros(3, kv_heads, groups * GROUP + 7, dtype=torch.bool)
        first = [max(0, groups * GROUP + 5 + i - window) if window else 0 for i in range(3)]
        for head, of in enumerate(tiles.tolist()):
            for tile in (one for one in of if one >= 0):
                seen[:, head, 16 * tile : 16 * tile + 16] = True
        for i in range(3):
            seen[i, :, groups * GROUP : groups * GROUP + 5 + i] = True
            seen[i, :, : first[i]] = False
        one = Quantised(case, groups, bits)
        out, sums = one.found([-1, 0, 1, 2, 3, 4, 5], first, tiles)
        whole = groups * GROUP
        k, v = hierarchical.rounded(one.k[:, :whole], one.v[:, :whole], bits)
        k, v = (torch.cat((part, of[:, whole:]), 1) for part, of in ((k, one.k), (v, one.v)))
        wanted, wanted_sums = attention.gathered_reference(one.q, k, v, seen)
        assert (out - wanted).abs().max() <= 8 * BETWEEN[bits] * one.v.abs().max()
        assert (sums - wanted_sums).abs().max() <= 8 * BETWEEN[bits]


def some_tiles(kv_heads: int, groups: int, share: float) -> torch.Tensor:
    """int32[kv_heads, chosen]: other ones, and as many as it happens, in each head."""
    random = torch.Generator().manual_seed(groups)
    chosen = [torch.arange(8 * groups)[torch.rand(8 * groups, generator=random) <= share] for _ in range(kv_heads)]
    tiles = torch.full((kv_heads, max(map(len, chosen)) + 1), -1, dtype=torch.int32)
    for head, of in zip(tiles, chosen, strict=True):
        head[: len(of)] = of
    return tiles


def test_the_means_of_chunks_are_those_of_the_upper_nibbles() -> None:
    k = wide(3, 2, 4 * GROUP, 80)
    upper = hierarchical.rounded(k, k, 4)[0]
    found = compressed(k, k).mean_keys(3, 21, 16)[..., :80]
    assert torch.allclose(found, upper.unflatten(1, (-1, 16)).mean(2)[:, 3:21], rtol=1e-5, atol=1e-5 * float(k.abs().max()))


@both
def test_a_tree_whose_paths_end_a_group_in_their_own_ways(bits: int) -> None:
    """Rows 120.. of a group are the tree's: each path has a group of its own."""
    parents = [-1, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20]
    one = Quantised(made(4, 2, 64, GROUP + 120 + len(parents), len(parents)), 1, bits)
    for first in ([0] * len(parents), [130] * len(parents)):
        one.check(parents, first)


@both
def test_a_prompt_whose_own_rows_fill_groups(bits: int) -> None:
    one = Quantised(made(4, 2, 32, 700, 600), 0, bits)
    one.check(list(range(-1, 699)), [0] * 600)
