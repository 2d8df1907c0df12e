"""Products of quantised matrices against float64, and the promise: a token's products are the same whatever is beside it.

Rounding, and the tolerance: a group's sum is a whole number and exact. In fp32 it is then converted, scaled (two scales, a
product, an addition, and a fused one less where there is FMA) and added up, so the error is at most (groups + 6) units of
2^-24 of the sum of the products' magnitudes. Nothing is added to that bound; at most 0.4 of it was measured.
"""

from collections.abc import Iterator
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from specexec.formats import Packed
from specexec.kernels import linear
from specexec.kinds import KEPT, SHARED
from tests.kept import quantise
from tests.kernels import ULP, normal, tables, threads

pytestmark = pytest.mark.usefixtures("every_set")

KINDS, BITS = ("nf4", "int8", "q4_0", "q8_0", "3bit"), (8, 16)
SENTINEL = -12345.0
in_all_forms = pytest.mark.parametrize(("kind", "bits"), [(kind, bits) for kind in KINDS for bits in BITS])


def scaled(rows: int, columns: int, seed: int = 0) -> torch.Tensor:
    """Rows whose scales lie between 1e-3 and 1e3."""
    return normal(rows, columns, seed=seed) * 10 ** (6 * torch.rand(rows, 1, generator=torch.Generator().manual_seed(seed)) - 3)


def spiky(n: int, columns: int, seed: int = 0) -> torch.Tensor:
    """Of every token a few groups have a value that drowns the others, not the same ones as its neighbours'."""
    x = scaled(n, columns, seed)
    return x * torch.where(torch.rand(n, columns, generator=torch.Generator().manual_seed(seed)) < 0.01, 50.0, 1.0)


def packed(kind: str, rows: int, columns: int, seed: int = 0) -> Packed:
    return quantise(scaled(rows, columns, seed), kind, "tile16")


def product(weight: Packed, x: torch.Tensor, bits: int) -> torch.Tensor:
    """fp32[n, rows], in the middle of a buffer that no kernel may otherwise touch."""
    around = torch.full((len(x), weight.rows + 2), SENTINEL)
    linear.linear([linear.matrix(weight, around[:, 1:])], linear.quantise(x, bits))
    assert bool((around[:, [0, -1]] == SENTINEL).all())
    return around[:, 1:-1]


def bound(weight: Packed, x: torch.Tensor, bits: int, *others: torch.Tensor) -> torch.Tensor:
    """What rounding may change at most, each element."""
    size = linear.rounded(x, bits).abs() @ linear.levels(weight, bits).abs().T + sum(other.double().abs() for other in others)
    return (weight.padded_columns // SHARED[weight.kind] + 6) * ULP * size + 1e-43  # below: fp32's smallest numbers


def check(weight: Packed, x: torch.Tensor, bits: int) -> None:
    error = (product(weight, x, bits) - linear.reference(weight, x, bits)).abs()
    assert bool((error <= bound(weight, x, bits)).all())


# --- parity


@in_all_forms
@settings(max_examples=20)
@given(rows=st.integers(1, 100), columns=st.integers(1, 300), n=st.integers(1, 30), seed=st.integers(0, 99))
def test_products_are_those_of_float64(kind: str, bits: int, rows: int, columns: int, n: int, seed: int) -> None:
    check(packed(kind, rows, columns, seed), scaled(n, columns, seed + 1), bits)
    check(packed(kind, rows, columns, seed), spiky(n, columns, seed + 1), bits)


@in_all_forms
@pytest.mark.parametrize("columns", [1, 63, 64, 65, 128])
@pytest.mark.parametrize("rows", [1, 15, 16, 17, 31, 32, 33, 64, 65])
def test_ragged_edges(kind: str, bits: int, rows: int, columns: int) -> None:
    for n in (1, 5):
        check(packed(kind, rows, columns), scaled(n, columns), bits)


@in_all_forms
def test_any_number_of_tokens(kind: str, bits: int, every_set: str) -> None:
    weight, x = packed(kind, 33, 130), spiky(300, 130)
    width = tables()[every_set].tokens
    borders = {tile * width + off for tile in (1, 2, 3) for off in (-1, 0, 1)}
    for n in sorted({*range(1, 18), *borders, 300}):
        check(weight, x[:n], bits)


@in_all_forms
def test_rows_longer_than_one_panel_of_unpacked_weights(kind: str, bits: int) -> None:
    """With few tokens weights are not unpacked into panels; it makes no difference."""
    weight, x = packed(kind, 20, 8300), spiky(150, 8300)
    check(weight, x, bits)
    assert torch.equal(product(weight, x, bits)[:13], product(weight, x[:13], bits))


@in_all_forms
def test_groups_of_zeros(kind: str, bits: int) -> None:
    weight, x = scaled(20, 256), scaled(5, 256)
    weight[3], weight[7, 64:128], x[1], x[2, 128:192] = 0, 0, 0, 0
    made = quantise(weight, kind, "tile16")
    check(made, x, bits)
    found = product(made, x, bits)
    assert not found[1].any()
    assert not found[:, 3].any()


@in_all_forms
@pytest.mark.parametrize("factor", [1e-30, 1e-12, 1e12, 1e28])
def test_huge_and_small_activations(kind: str, bits: int, factor: float) -> None:
    if kind in KEPT:  # whose scales are 1/127 of an absmax: of smaller products fp32 has no more than a few bits
        factor = max(factor, 1e-26)
    check(packed(kind, 40, 200), scaled(9, 200) * factor, bits)


@in_all_forms
@pytest.mark.parametrize("factor", [6e-8, 6e4 / 4000])
def test_scales_at_the_ends_of_fp16(kind: str, bits: int, factor: float) -> None:
    check(quantise(scaled(40, 200) * factor, kind, "tile16"), scaled(9, 200), bits)


@in_all_forms
def test_an_outlier_leaves_other_groups_as_they_are(kind: str, bits: int) -> None:
    weight, x = packed(kind, 40, 256), normal(9, 256)
    for token in range(9):
        x[token, 17 * token] = 1e4
    check(weight, x, bits)


@in_all_forms
def test_activations_too_small_to_scale_count_as_nothing(kind: str, bits: int) -> None:
    """127 / 1e-38 is no fp32: what comes out is not exact, but nothing one could see."""
    found = product(packed(kind, 40, 128), torch.full((5, 128), 1e-38), bits)
    assert bool((found.abs() < 1e-30).all())


def test_the_levels_of_nf4_lie_within_half_a_unit() -> None:
    weight = packed("nf4", 40, 128)
    exact, scale = linear.dequantise(weight, torch.float64), weight.scales.double().amax()
    for bits, unit in linear.UNITS.items():
        assert (linear.levels(weight, bits) - exact).abs().max() <= 0.5 / unit * scale


# --- several matrices, biases, sums


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("n", [1, 40])
def test_matrices_side_by_side_in_one_call(bits: int, n: int) -> None:
    """Of any kinds and sizes, with biases or not, added to what is there or not."""
    x, sizes = scaled(n, 100), [16, 5, 40, 33]
    weights = [packed(KINDS[i], size, 100, seed=i) for i, size in enumerate(sizes)]
    biases = [normal(size, seed=size) if i % 3 else None for i, size in enumerate(sizes)]
    out = normal(n, sum(sizes) + 3, seed=9)
    before, ends = out.clone(), [sum(sizes[:i]) for i in range(len(sizes) + 1)]
    linear.linear([linear.matrix(w, out[:, start:], bias, adds=i > 1)
                   for i, (w, bias, start) in enumerate(zip(weights, biases, ends, strict=False))], linear.quantise(x, bits))
    assert torch.equal(out[:, ends[-1] :], before[:, ends[-1] :])
    for i, (weight, bias, (start, end)) in enumerate(zip(weights, biases, pairwise(ends), strict=True)):
        others = [bias if bias is not None else torch.zeros(1), before[:, start:end] if i > 1 else torch.zeros(1)]
        error = (out[:, start:end] - (linear.reference(weight, x, bits) + sum(other.double() for other in others))).abs()
        assert bool((error <= bound(weight, x, bits, *others)).all())


# --- the promise


@in_all_forms
@pytest.mark.parametrize("count", [1, 2])
def test_a_token_s_products_do_not_depend_on_those_beside_it(kind: str, bits: int, count: int) -> None:
    weight, x = packed(kind, 81, 250), spiky(256, 250)
    alone = torch.cat([product(weight, row[None], bits) for row in x])
    with threads(count):
        for start, n in spans():
            assert torch.equal(product(weight, x[start : start + n], bits), alone[start : start + n]), (start, n)


def spans() -> Iterator[tuple[int, int]]:
    """(start, n): all small n, and some larger ones, at starts that put a token into every place of a tile."""
    yield from ((n % 7, n) for n in range(1, 52))
    yield from ((0, 256), (1, 255), (3, 100), (5, 129), (128, 128))


@in_all_forms
def test_a_row_s_products_do_not_depend_on_the_rows_beside_it(kind: str, bits: int) -> None:
    dense, x = scaled(81, 2300), spiky(100, 2300)
    whole = product(quantise(dense, kind, "tile16"), x, bits)
    for start, end in ((0, 16), (16, 64), (48, 81), (80, 81)):
        assert torch.equal(product(quantise(dense[start:end], kind, "tile16"), x, bits), whole[:, start:end])
