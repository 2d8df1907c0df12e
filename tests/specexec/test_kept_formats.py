"""q4_0 and q8_0: what a GGUF file keeps, in our layouts."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from specexec.formats import KINDS, dequantise, pack, quantise, relay, shapes, told
from specexec.kinds import KEPT, LAYOUTS, SHARED

ZERO = {"q4_0": 8, "q8_0": 0}
sizes = st.integers(1, 150)


def drawn(kind: str, rows: int, columns: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(codes, scales): any at all."""
    source = torch.Generator().manual_seed(rows * 1000 + columns)
    low, high = (0, 16) if kind == "q4_0" else (-128, 128)
    codes = torch.randint(low, high, (rows, columns), generator=source).to(KINDS[kind])
    return codes, torch.randn(rows, -(-columns // SHARED[kind]), generator=source).half()


@given(st.sampled_from(KEPT), st.sampled_from(LAYOUTS), sizes, sizes)
def test_codes_and_scales_are_as_they_were(kind: str, layout: str, rows: int, columns: int) -> None:
    codes, scales = drawn(kind, rows, columns)
    packed = pack(kind, layout, codes, scales)
    wanted = (codes.float() - ZERO[kind]) * scales.float().repeat_interleave(SHARED[kind], 1)[:, :columns]
    assert torch.equal(dequantise(packed), wanted)
    other = relay(packed, LAYOUTS[1 - LAYOUTS.index(layout)])
    assert torch.equal(dequantise(other), wanted)
    assert torch.equal(relay(other, layout).codes, packed.codes)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_matrix_tells_its_kind(layout: str) -> None:
    for kind, dtype in KINDS.items():
        codes, scales = shapes(kind, layout, 20, 130)
        assert told(torch.empty(codes, dtype=dtype), torch.empty(scales, dtype=torch.float16)) == kind
    assert told(torch.empty(20, 64, dtype=torch.int8), torch.empty(20, 5, dtype=torch.float16)) is None


def test_they_are_never_made_of_floats() -> None:
    with pytest.raises(ValueError, match="never made"):
        quantise(torch.ones(4, 64), "q8_0", "tile16")
