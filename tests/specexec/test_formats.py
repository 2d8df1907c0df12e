"""Quantised formats: bytes spelled out, bitsandbytes' codes, error bounds, ragged edges, and what is refused."""

import ast
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

import specexec.kinds
from specexec import codes, formats, levels, nf4, three_bit
from specexec.formats import ZERO, Packed, dequantise, quantise, relay, shapes
from specexec.kinds import GROUP, LAYOUTS
from specexec.nf4 import EDGES, NF4, nearest

KINDS = ("nf4", "int8", "3bit")  # that are made; those of GGUF files: test_kept_formats.py
EPSILON = 2.0**-11  # of fp16's rounding
BEYOND = 1 - 90 / 127  # what 3bit's lowest level leaves of a weight that lies as far below zero as another above
TINY = 2.0**-25  # half of fp16's smallest number: rounds to 0

kinds, layouts, sizes = st.sampled_from(list(KINDS)), st.sampled_from(LAYOUTS), st.integers(1, 200)


def normal(rows: int, columns: int, seed: int = 0) -> torch.Tensor:
    """fp32[rows, columns] whose rows differ in scale from 1e-3 to 1e3."""
    source = torch.Generator().manual_seed(seed)
    return torch.randn(rows, columns, generator=source) * 10 ** (6 * torch.rand(rows, 1, generator=source) - 3)


weights = st.builds(normal, sizes, sizes, st.integers(0, 2**32))


def same(a: Packed, b: Packed) -> bool:
    return (a.kind, a.layout, a.rows, a.columns) == (b.kind, b.layout, b.rows, b.columns) and (
        torch.equal(a.codes, b.codes) and torch.equal(a.scales, b.scales)
    )


def absmax(weight: torch.Tensor) -> torch.Tensor:
    """fp32[N, K]: of each weight's group."""
    largest = [group.abs().amax(1, keepdim=True).expand_as(group) for group in torch.split(weight, GROUP, 1)]
    return torch.cat(largest, 1)


# The bytes, spelled out for a weight of 18 x 70: two tiles, two groups, both ragged

ROWS, COLUMNS = 18, 70
UNITS = {"nf4": NF4.tolist(), "int8": [q / 127 for q in [*range(128), *range(-128, 0)]],  # int8's by its byte
         "3bit": [q / 127 for q in three_bit.WHOLE]}


def scale(row: int, group: int) -> float:
    return 2.0 ** (row % 5 - 2 * group) if row < ROWS else 0.0


def code(kind: str, row: int, column: int) -> int:
    """The byte, or part of one, that a weight should become: any at all, but for the largest at the start of a group."""
    if row >= ROWS or column >= COLUMNS:
        return ZERO[kind]
    if column % 64 == 0:
        return {"nf4": 15, "int8": 127, "3bit": 7}[kind]
    places = {"nf4": 16, "3bit": 8}.get(kind)
    return (3 * row + 5 * column) % places if places else (7 * row + 11 * column) % 127 - 63 & 0xFF


def example(kind: str) -> torch.Tensor:
    rows = [[scale(r, c // 64) * UNITS[kind][code(kind, r, c)] for c in range(COLUMNS)] for r in range(ROWS)]
    return torch.tensor(rows)


def expected_bytes(kind: str, layout: str) -> list[int]:
    """In the order of memory."""
    if layout == "rowmajor" and kind == "nf4":
        return [code(kind, r, c) * 16 + code(kind, r, c + 1) for r in range(ROWS) for c in range(0, 128, 2)]
    if layout == "rowmajor" and kind == "int8":
        return [code(kind, r, c) for r in range(ROWS) for c in range(128)]
    tiles = [range(16), range(16, 32)] if layout == "tile16" else [range(r, r + 1) for r in range(ROWS)]
    if kind == "3bit":
        runs = [(tile, k, part) for tile in tiles for k in range(0, 128, 32) for part in range(3)]
        return [third(r, k, part, j) for tile, k, part in runs for r in tile for j in range(4)]
    if kind == "int8":
        return [code(kind, r, k + j) for tile in tiles for k in range(0, 128, 4) for r in tile for j in range(4)]
    places = [(r, k + j) for tile in tiles for k in range(0, 128, 8) for r in tile for j in range(4)]
    return [code(kind, r, c) + 16 * code(kind, r, c + 4) for r, c in places]


def third(row: int, first: int, part: int, j: int) -> int:
    """Byte j of the three times four of 32 columns."""
    if part == 2:
        return sum((code("3bit", row, first + j + 4 * i) >> 2) << i for i in range(8))
    return sum((code("3bit", row, first + 16 * part + j + 4 * i) & 3) << 2 * i for i in range(4))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_byte_lies_where_the_format_says(kind: str, layout: str) -> None:
    packed = quantise(example(kind), kind, layout)
    assert packed.codes.view(torch.uint8).flatten().tolist() == expected_bytes(kind, layout)
    row_groups = [(r, g) for r in range(ROWS) for g in (0, 1)]
    if layout == "tile16":
        row_groups = [(16 * tile + r, g) for tile in (0, 1) for g in (0, 1) for r in range(16)]
    assert packed.scales.flatten().tolist() == [scale(r, g) for r, g in row_groups]
    assert (packed.padded_rows, packed.padded_columns) == (32 if layout == "tile16" else 18, 128)
    assert packed.nbytes == len(expected_bytes(kind, layout)) + 2 * len(row_groups)
    assert torch.equal(dequantise(packed), example(kind))


# bitsandbytes


def test_the_table_holds_the_quantiles_of_the_normal() -> None:
    """QLoRA's construction: 7 steps below 0 and 8 above it, out to the quantile 0.9677083, scaled to 1."""
    above, below = (torch.special.ndtri(torch.linspace(0.9677083, 0.5, n, dtype=torch.float64)) for n in (9, 8))
    table = torch.cat((-below[:-1], above.flip(0))) / above.max()
    assert torch.allclose(table, NF4.double(), rtol=0, atol=2e-7)


def border_cases() -> torch.Tensor:
    """fp32[2, 64]: each edge, its neighbours and the table, of absmax 1; and all that negated."""
    up, down = (torch.nextafter(EDGES, torch.full_like(EDGES, to)) for to in (2.0, -2.0))
    group = torch.cat((EDGES, up, down, NF4, torch.tensor([-0.0, 0.0, 1.0])))
    return torch.stack((group, -group))


def test_a_tie_takes_the_lower_code_and_its_neighbours_the_nearer() -> None:
    codes = quantise(border_cases(), "nf4", "rowmajor").codes[0]
    nibbles = [nibble for byte in codes.tolist() for nibble in (byte >> 4, byte & 15)]
    assert nibbles == [*range(15), *range(1, 16), *range(15), *range(16), 7, 7, 15]


def test_codes_that_bitsandbytes_gave_once() -> None:
    ramp = (torch.arange(-32.0, 32.0) / 32 * 0.0173).view(1, 64)
    codes = quantise(ramp, "nf4", "rowmajor").codes.flatten().tolist()
    assert bytes(codes).hex() == "000001111111122222333344455566677788999aaabbbccccddddeeeeeeeffff"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("factor", [1.0, 0.1, 3.0, 2.0**-10, 0.0173, 60_000.0, 7e-8])
def test_codes_and_values_are_those_of_bitsandbytes(dtype: torch.dtype, factor: float) -> None:
    theirs = pytest.importorskip("bitsandbytes.functional")
    spread = torch.randn(64, 1024, generator=torch.Generator().manual_seed(0)).clamp(-1, 1)
    for weight in ((border_cases() * factor).to(dtype), (spread * factor).to(dtype)):
        packed = quantise(weight, "nf4", "rowmajor")
        codes, state = theirs.quantize_4bit(weight, blocksize=64, quant_type="nf4")
        assert torch.equal(codes.view(packed.codes.shape), packed.codes)
        assert torch.equal(state.absmax.half().view(packed.scales.shape), packed.scales)
        state.absmax = packed.scales.float().flatten()
        assert torch.equal(theirs.dequantize_4bit(codes, state), dequantise(packed, dtype))


def test_cells_find_what_a_search_of_the_edges_finds() -> None:
    x = torch.cat((torch.arange(-(2**18) - 1, 2**18 + 2) / 2**18, border_cases().flatten(), torch.tensor([1e-40, -1e-40])))
    assert torch.equal(nearest(x).long(), torch.bucketize(x, EDGES))


# 3bit


def left_by(levels: torch.Tensor) -> float:
    """Of the variance of normal weights, by these of 1/127."""
    groups = torch.randn(20_000, GROUP, generator=torch.Generator().manual_seed(0))
    scales = three_bit.farthest(groups)[:, None]
    near = levels[torch.bucketize(groups / scales, (levels[1:] + levels[:-1]) / 254)]
    return float((groups - near * scales / 127).square().mean())


def test_3bit_s_levels_are_those_that_leave_the_least_of_normal_weights() -> None:
    """Any of them 3/127 farther up or down leaves more."""
    chosen = torch.tensor(three_bit.WHOLE, dtype=torch.float32)
    least = left_by(chosen)
    assert 0.0305 < least < 0.0318
    for place in (0, 1, 2, 4, 5, 6):  # 0 and 1 are given
        for by in (-3, 3):
            moved = chosen.clone()
            moved[place] += by
            assert left_by(moved) > least


def test_3bit_s_scale_has_the_sign_of_the_weight_that_is_farthest_from_zero() -> None:
    packed = quantise(torch.cat((torch.tensor([-2.0, 1.0]), torch.zeros(62)))[None], "3bit", "rowmajor")
    assert packed.scales.item() == -2
    assert dequantise(packed)[0, :3].tolist() == [-2, pytest.approx(2 * 53 / 127), 0]


# Round trips


@given(weights, kinds, layouts)
def test_a_relay_there_and_back_changes_no_bit(weight: torch.Tensor, kind: str, layout: str) -> None:
    packed = quantise(weight, kind, layout)
    for other in LAYOUTS:
        assert same(relay(packed, other), quantise(weight, kind, other))
        assert same(relay(relay(packed, other), layout), packed)
    assert relay(packed, layout) is packed


@given(weights, kinds)
def test_both_layouts_hold_the_same_weights(weight: torch.Tensor, kind: str) -> None:
    one, other = (dequantise(quantise(weight, kind, layout)) for layout in LAYOUTS)
    assert one.shape == weight.shape
    assert torch.equal(one, other)


@given(weights, kinds, layouts)
def test_the_error_is_half_a_gap_and_the_rounding_of_absmax(weight: torch.Tensor, kind: str, layout: str) -> None:
    half_gap = {"nf4": float((NF4[1:] - NF4[:-1]).max()) / 2, "int8": 0.5 / 127, "3bit": BEYOND}[kind]
    error = (dequantise(quantise(weight, kind, layout)) - weight).abs()
    assert bool((error <= (half_gap + EPSILON + 1e-6) * absmax(weight) + TINY).all())


@given(weights, kinds, layouts)
def test_what_was_quantised_quantises_to_itself(weight: torch.Tensor, kind: str, layout: str) -> None:
    packed = quantise(weight, kind, layout)
    assume(kind != "int8" or bool((absmax(weight) >= 2.0**-14).all()))  # else int8's largest code may be below 127
    assert same(quantise(dequantise(packed), kind, layout), packed)


@pytest.mark.parametrize("kind", KINDS)
def test_blocks_of_rows_meet_without_a_seam(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    weight = normal(100, 130)
    whole = [quantise(weight, kind, layout) for layout in LAYOUTS]
    monkeypatch.setattr(formats, "BLOCK", 1)  # rounds up to one tile
    for packed, layout in zip(whole, LAYOUTS, strict=True):
        assert same(quantise(weight, kind, layout), packed)
        assert all(same(relay(packed, other.layout), other) for other in whole)
        assert torch.equal(dequantise(packed), dequantise(whole[0]))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_dtypes_go_through_fp32(kind: str, dtype: torch.dtype) -> None:
    weight = normal(20, 70).to(dtype)
    packed = quantise(weight, kind, "tile16")
    assert same(packed, quantise(weight.float(), kind, "tile16"))
    assert torch.equal(dequantise(packed, dtype), dequantise(packed).to(dtype))


@pytest.mark.parametrize("kind", KINDS)
def test_strides_and_gradients_of_a_weight_do_not_matter(kind: str) -> None:
    weight = normal(64, 48).T
    packed = quantise(torch.nn.Parameter(weight), kind, "tile16")
    assert same(packed, quantise(weight.contiguous(), kind, "tile16"))
    assert not packed.scales.requires_grad
    aside = torch.cat((torch.zeros(1, dtype=packed.codes.dtype), packed.codes.flatten()))[1:].view(packed.codes.shape)
    assert same(relay(replace(packed, codes=aside), "rowmajor"), relay(packed, "rowmajor"))  # as a file may hold it


# Groups that are not like others


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("value", [0.0, -0.0, TINY, -TINY, 1e-40])
def test_what_is_0_in_fp16_becomes_a_group_of_zeros(kind: str, value: float) -> None:
    packed = quantise(torch.full((1, 64), value), kind, "rowmajor")
    zeros = {"nf4": {0x77}, "int8": {0}, "3bit": {0xFF, 0}}  # 3bit's 3: ones in the lower bits alone
    assert set(packed.codes.flatten().tolist()) == zeros[kind]
    assert not packed.scales.any()
    assert not dequantise(packed).any()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("value", [1.0, -1.0, 2.0**-24, 65_504.0, -65_504.0])
def test_a_constant_of_fp16_is_kept_exactly(kind: str, value: float) -> None:
    assert dequantise(quantise(torch.full((3, 70), value), kind, "tile16")).eq(value).all()


@pytest.mark.parametrize(("kind", "between", "codes"), [("nf4", EDGES[14], [0xFE]), ("int8", 100.5 / 127, [127, 101])])
def test_nf4_is_rounded_against_the_exact_absmax_and_int8_against_the_stored(
    kind: str, between: float, codes: list[int]
) -> None:
    exact = 1 + 0.49 * 2.0**-10  # stored as 1
    packed = quantise(torch.tensor([[exact, between * 1.0001]]), kind, "rowmajor")
    assert packed.scales.item() == 1
    assert packed.codes[0, : len(codes)].tolist() == codes


def test_int8_stays_within_127_where_absmax_is_rounded_down() -> None:
    packed = quantise(torch.tensor([[1.4, -1.4]]) * 2.0**-24, "int8", "rowmajor")
    assert packed.codes[0, :2].tolist() == [127, -127]


def test_int8_rounds_its_values_once() -> None:
    packed = quantise(torch.cat((torch.tensor([127.0]), torch.arange(1.0, 64)))[None] * 0.0173, "int8", "rowmajor")
    exact = packed.codes.double() * packed.scales.double() / 127
    assert torch.equal(dequantise(packed), exact.float())


# What is refused


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("value", "named"), [(math.nan, "nan"), (math.inf, "inf"), (-math.inf, "inf"), (65_520.0, "65520")])
def test_weights_that_fp16_cannot_scale_are_refused(kind: str, value: float, named: str) -> None:
    weight = torch.ones(40, 70)
    weight[39, 69] = value
    with pytest.raises(ValueError, match=rf"absmax is {named}, .*\. Keep this tensor in bf16\.$"):
        quantise(weight, kind, "tile16")


@pytest.mark.parametrize(
    ("shape", "dtype", "named"),
    [
        ((64,), torch.float32, r"is a matrix of floats, not torch\.float32\[64\]"),
        ((1, 2, 64), torch.float32, r"is a matrix of floats, not torch\.float32\[1, 2, 64\]"),
        ((2, 64), torch.int8, r"is a matrix of floats, not torch\.int8\[2, 64\]"),
        ((0, 64), torch.float32, "of 0 rows and 64 columns is empty"),
        ((2, 0), torch.float32, "of 2 rows and 0 columns is empty"),
    ],
)
def test_what_is_not_a_matrix_of_floats_is_refused(shape: tuple[int, ...], dtype: torch.dtype, named: str) -> None:
    with pytest.raises(ValueError, match=f"^a weight {named}$"):
        quantise(torch.ones(shape, dtype=dtype), "nf4", "rowmajor")


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("field", ["kind", "layout", "rows", "columns", "shape", "dtype", "strides", "scales"])
def test_tensors_that_do_not_fit_are_refused(layout: str, field: str) -> None:
    packed = quantise(normal(20, 130), "nf4", layout)
    codes = packed.codes
    broken: dict[str, dict[str, Any]] = {
        "kind": {"kind": "int8"},
        "layout": {"layout": LAYOUTS[1 - LAYOUTS.index(layout)]},
        "rows": {"rows": 40},
        "columns": {"columns": 200},
        "shape": {"codes": codes.flatten()},
        "dtype": {"codes": codes.view(torch.int8)},
        "strides": {"codes": codes.repeat_interleave(2, -1)[..., ::2]},
        "scales": {"scales": packed.scales.float()},
    }
    with pytest.raises(ValueError, match=r"(codes|scales) of \w+ \w+ \[\d+, \d+\] are contiguous torch\.\w+\["):
        replace(packed, **broken[field])


@pytest.mark.parametrize(("kind", "layout"), [("int4", "tile16"), ("nf4", "tile32")])
def test_kinds_and_layouts_that_are_not_there_are_named(kind: str, layout: str) -> None:
    kinds = "nf4, int8, q4_0, q8_0, 3bit"
    with pytest.raises(ValueError, match=rf"'{kind}' in '{layout}' is not one of {kinds} in one of rowmajor, tile16"):
        shapes(kind, layout, 16, 64)


def test_the_formats_know_of_nothing_else_of_the_project() -> None:
    leaves = (codes, formats, specexec.kinds, levels, nf4, three_bit)
    texts = [Path(str(leaf.__file__)).read_text() for leaf in leaves]
    found = [node for text in texts for node in ast.walk(ast.parse(text)) if isinstance(node, ast.ImportFrom)]
    known = {name for node in found if node.module == "specexec" for name in [f"specexec.{alias.name}" for alias in node.names]}
    known |= {str(node.module) for node in found if node.module != "specexec"}
    ours = {name for name in known if name.split(".")[0] in ("specexec", "offload", "cli")}
    assert ours <= {leaf.__name__ for leaf in leaves}
