"""Norms, SiLU, RoPE and the rounding of activations against float64, and the promise that a row depends on itself alone.

Tolerances are counted in units of 2^-24, fp32's rounding, relative to the largest term: twice what was measured.
"""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from specexec.kernels import attention, linear, rows, table
from specexec.kernels.linear import MOST, Activations
from specexec.kinds import GROUP
from tests.kernels import ULP, cached_rows, normal, tables, threads, unpacked, unpacked_low

pytestmark = pytest.mark.usefixtures("every_set")

EPS = 1e-5
NORM, SILU, ROPE = 8 * ULP, 9 * ULP, 5 * ULP  # measured: 3.6, 4.3, 2.2; RoPE after a norm 3.3
COLUMNS = [1, 15, 16, 48, 63, 64, 65, 100, 896, 4096]
bits_of_codes = pytest.mark.parametrize("bits", [8, 16])

Turned = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def filled(n: int, columns: int, bits: int, fill: Callable[[Activations], None]) -> Activations:
    made = Activations.empty(n, columns, bits)
    made.q.fill_(99), made.scale.fill_(torch.nan), made.sum.fill_(-1), made.fine.fill_(7)
    fill(made)
    return made


def same(a: Activations, b: Activations) -> bool:
    return all(torch.equal(*parts) for parts in ((a.q, b.q), (a.scale, b.scale), (a.sum, b.sum), (used(a), used(b))))


def used(made: Activations) -> torch.Tensor:
    return made.fine if made.bits == 8 else torch.empty(0)


def values(made: Activations, width: int) -> torch.Tensor:
    """float64[n, columns]: what the codes stand for. Sums are held against the codes, and the end filled with zeros."""
    codes, sums, scales = unpacked(made, width)
    assert torch.equal(codes.unflatten(-1, (2, -1)).sum(-1), sums.long())
    assert int(codes.abs().max()) <= MOST[made.bits]
    found = ((codes + below(made, width)) * scales.double()[..., None]).flatten(1)
    assert not found[:, made.columns :].any()
    return found[:, : made.columns]


def below(made: Activations, width: int) -> torch.Tensor | int:
    """What the second plane adds to codes, in float64."""
    if made.bits == 16:
        return 0
    low, sums, fine = unpacked_low(made, width)
    assert torch.equal(low.unflatten(-1, (2, -1)).sum(-1), sums.long())
    assert int(low.abs().max()) <= 127
    assert not low[~fine].any()
    return low.double() / 256


# --- rounding


@bits_of_codes
@settings(max_examples=25)
@given(n=st.integers(1, 40), columns=st.integers(1, 300), seed=st.integers(0, 99), factor=st.sampled_from([1e-30, 1.0, 1e30]))
def test_rounding_is_that_of_the_reference_to_the_bit(
    bits: int, every_set: str, n: int, columns: int, seed: int, factor: float
) -> None:
    x = normal(n, columns, seed=seed) * factor
    x[:, 64:128] = 0  # a group of zeros
    x[0, 0] *= 1000
    x[n // 2, :: 97] *= 30
    made = filled(n, columns, bits, lambda to: table.needed().quantise(x.data_ptr(), columns, to.struct()))
    _, _, scales = unpacked(made, tables()[every_set].tokens)
    most = torch.nn.functional.pad(x, (0, -columns % GROUP)).view(n, -1, GROUP).abs().amax(-1)
    assert torch.equal(scales, most / torch.full_like(most, MOST[bits]))
    assert torch.equal(values(made, tables()[every_set].tokens), linear.rounded(x, bits))


@bits_of_codes
def test_rounding_goes_to_the_nearest_and_ties_to_even(bits: int, every_set: str) -> None:
    most = MOST[bits]
    x = torch.tensor([[most, 0.5, 1.5, 2.5, -0.5, -1.5, 0.49, 3.51, -most]])
    codes, _, _ = unpacked(linear.quantise(x, bits), tables()[every_set].tokens)
    assert codes[0, 0, :9].tolist() == [most, 0, 2, 2, 0, -2, 0, 4, -most]


def test_a_group_that_one_value_drowns_has_twice_the_bits(every_set: str) -> None:
    x = normal(3, 128)
    x[1, 70] = 200
    _, _, fine = unpacked_low(linear.quantise(x, 8), tables()[every_set].tokens)
    assert fine.tolist() == [[False, False], [False, True], [False, False]]
    error = (linear.rounded(x, 8) - x).abs()
    assert error[1, 64:].max() < 200 / 127 / 400
    assert error[1, :64].max() > error[1, 64:].max()


# --- norms


@pytest.mark.parametrize("columns", COLUMNS)
@pytest.mark.parametrize("factor", [1e-4, 1.0, 1e4])
def test_norms_are_those_of_float64(columns: int, factor: float) -> None:
    x, weight = normal(9, columns) * factor, 1 + 0.3 * normal(columns, seed=1)
    wanted = rows.norm_reference(x, weight, EPS)
    assert bool(((rows.norm(x, weight, EPS) - wanted).abs() <= NORM * wanted.abs()).all())


def test_the_norm_of_zeros_is_zero() -> None:
    assert not rows.norm(torch.zeros(3, 70), torch.ones(70), EPS).any()


@bits_of_codes
@pytest.mark.parametrize("columns", COLUMNS)
def test_a_norm_that_rounds_is_the_norm_then_the_rounding(columns: int, bits: int) -> None:
    x, weight = normal(14, columns), normal(columns, seed=1)
    made = filled(14, columns, bits, lambda to: rows.norm_quantise(x, weight, EPS, to))
    assert same(made, linear.quantise(rows.norm(x, weight, EPS), bits))


# --- SiLU


@bits_of_codes
@pytest.mark.parametrize("columns", COLUMNS)
@pytest.mark.parametrize("factor", [0.01, 1.0, 30.0])
def test_silu_is_that_of_float64(columns: int, bits: int, factor: float, every_set: str) -> None:
    """Within half a step of its group, and fp32's rounding."""
    gate_up = normal(9, 2, columns) * factor
    made = filled(9, columns, bits, lambda to: rows.silu_quantise(gate_up, to))
    wanted = rows.silu_reference(gate_up)
    _, _, scales = unpacked(made, tables()[every_set].tokens)
    steps = scales.double().repeat_interleave(GROUP, 1)[:, :columns]
    error = (values(made, tables()[every_set].tokens) - wanted).abs()
    assert bool((error <= steps * (0.5 + MOST[bits] * SILU)).all())


@bits_of_codes
@pytest.mark.parametrize("gate", [-1e30, -200.0, -88.5, -87.0, -20.0, 0.0, 20.0, 87.5, 200.0, 1e30])
def test_silu_far_out(gate: float, bits: int, every_set: str) -> None:
    gate_up = torch.tensor([gate, 1.5]).view(1, 2, 1)
    made = filled(1, 1, bits, lambda to: rows.silu_quantise(gate_up, to))
    found, wanted = values(made, tables()[every_set].tokens), rows.silu_reference(gate_up)
    assert (found - wanted).abs() <= SILU * wanted.abs() + 1e-34  # below e^-87: 0


# --- RoPE


def turned(qkv: torch.Tensor, angles: torch.Tensor, how: rows.Rope, kv_heads: int, row: int, capacity: int = 128) -> Turned:
    """(q[n, heads, dim], bf16 k, v[kv_heads, capacity, dim]) out of buffers full of ones."""
    cache = attention.empty_cache(kv_heads, capacity, how.head_dim)
    for part in cache:
        part.fill_(1)
    q = torch.full((len(qkv), how.heads, attention.padded(how.head_dim)), torch.nan)
    rows.rope(qkv, angles, how, q, attention.struct(*cache), row)
    return q, *cached_rows(*cache)


def case(head_dim: int, heads: int, kv_heads: int, n: int, normed: bool) -> tuple[torch.Tensor, torch.Tensor, rows.Rope]:
    qkv = normal(n, (heads + 2 * kv_heads) * head_dim)
    turns = 3 * normal(n, head_dim // 2, seed=1)
    norms = [1 + 0.3 * normal(head_dim, seed=2 + i) for i in range(2)] if normed else [None, None]
    return qkv, torch.stack((turns.cos(), turns.sin()), 1), rows.Rope(heads, head_dim, 0.7, EPS, *norms)


@pytest.mark.parametrize("normed", [False, True])
@pytest.mark.parametrize("head_dim", [2, 12, 32, 64, 80, 96, 128, 256])
@pytest.mark.parametrize(("heads", "kv_heads", "n", "row"), [(4, 4, 1, 0), (6, 2, 9, 13), (7, 1, 20, 60)])
def test_rope_is_that_of_float64(head_dim: int, heads: int, kv_heads: int, n: int, row: int, normed: bool) -> None:
    qkv, angles, how = case(head_dim, heads, kv_heads, n, normed)
    q, k, v = turned(qkv, angles, how, kv_heads, row)
    ends = [heads * head_dim, (heads + kv_heads) * head_dim]
    asked, keys, kept = (part.view(n, -1, head_dim) for part in qkv.tensor_split(ends, 1))
    if how.q_norm is not None and how.k_norm is not None:
        asked, keys = rows.norm_reference(asked, how.q_norm, EPS), rows.norm_reference(keys, how.k_norm, EPS)
    limit = NORM if normed else ROPE
    wanted = rows.turn_reference(asked, angles) * how.scaling
    assert bool(((q[..., :head_dim] - wanted).abs() <= limit * asked.abs().amax(-1, keepdim=True)).all())
    wanted = rows.turn_reference(keys, angles).transpose(0, 1)
    error = (k[:, row : row + n, :head_dim].double() - wanted).abs()
    most = keys.abs().amax(-1, keepdim=True).transpose(0, 1)
    assert bool((error <= 2.0**-8 * wanted.abs() + limit * most).all())  # bf16's rounding
    assert torch.equal(v[:, row : row + n, :head_dim], kept.transpose(0, 1).bfloat16())
    for part in (q[..., head_dim:], k[:, row : row + n, head_dim:], v[:, row : row + n, head_dim:]):
        assert not part.any()
    for part in (k, v):
        assert bool((part[:, :row] == 1).all() and (part[:, row + n :] == 1).all())


def test_the_wrapper_places_keys_and_values_as_rope_does() -> None:
    qkv, angles, how = case(80, 4, 2, 30, False)
    _, k, v = turned(qkv, angles, how, 2, 50)
    cache = attention.empty_cache(2, 128, 80)
    attention.place(*cache, k[:, 50:80, :80], v[:, 50:80, :80], 50)
    assert all(torch.equal(a[:, 50:80], b[:, 50:80]) for a, b in zip(cached_rows(*cache), (k, v), strict=True))


# --- rows of a cache that move


@settings(max_examples=30)
@given(data=st.data(), layers=st.integers(1, 3), kv_heads=st.integers(1, 3), head_dim=st.sampled_from([16, 32, 80]))
def test_moving_rows_is_plain_indexing(data: st.DataObject, layers: int, kv_heads: int, head_dim: int) -> None:
    """Also where the rows overlap the places they go to."""
    to = data.draw(st.integers(0, 100))
    taken = data.draw(st.lists(st.integers(0, 127), min_size=1, max_size=128 - to))
    caches = [attention.empty_cache(kv_heads, 128, head_dim) for _ in range(layers)]
    for i, part in enumerate(part for cache in caches for part in cache):
        part.copy_(normal(*part.shape, seed=i))
    before = [[part.clone() for part in cached_rows(*cache)] for cache in caches]
    structs, places = (table.Cache * layers)(*(attention.struct(*cache) for cache in caches)), torch.tensor(taken)
    table.needed().move(structs, layers, to, places.data_ptr(), len(taken))
    for cache, parts in zip(caches, before, strict=True):
        for found, was in zip(cached_rows(*cache), parts, strict=True):
            wanted = was.clone()
            wanted[:, to : to + len(taken)] = was[:, taken]
            assert torch.equal(found, wanted)


# --- the promise


def once(x: torch.Tensor, bits: int) -> list[torch.Tensor]:
    """All that is done to rows x[n, 560]: norms, and what each of the three roundings leaves, decoded."""
    weight, width = normal(560, seed=1), table.needed().tokens
    angles = normal(1, 2, 40, seed=2).expand(len(x), 2, 40).contiguous()
    made = [linear.quantise(x, bits), filled(len(x), 560, bits, lambda to: rows.norm_quantise(x, weight, EPS, to)),
            filled(len(x), 280, bits, lambda to: rows.silu_quantise(x, to))]
    q, k, v = turned(x, angles, rows.Rope(3, 80, 0.7, EPS, weight[:80], weight[80:160]), 2, 5, capacity=320)
    kept = slice(5, 5 + len(x))
    decoded = [values(part, width) for part in made]
    return [rows.norm(x, weight, EPS), *decoded, q, k[:, kept].transpose(0, 1), v[:, kept].transpose(0, 1)]


@bits_of_codes
@pytest.mark.parametrize("count", [1, 2])
def test_a_row_does_not_depend_on_those_beside_it(bits: int, count: int) -> None:
    x = normal(256, 560)
    alone = [torch.cat(parts) for parts in zip(*(once(row[None], bits) for row in x), strict=True)]
    with threads(count):
        for start, n in ((0, 256), (1, 2), (2, 7), (3, 13), (5, 100), (100, 60)):
            for found, wanted in zip(once(x[start : start + n].contiguous(), bits), alone, strict=True):
                assert torch.equal(found, wanted[start : start + n])
