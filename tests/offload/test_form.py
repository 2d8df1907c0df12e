"""What becomes of a published tensor."""

import pytest
import torch

from offload.errors import Refused
from offload.folder import EMBEDDING, HEAD
from offload.form import Plain, Quantised
from specexec.formats import Packed, dequantise

CPU = torch.device("cpu")


def quantised(tied: bool = False, kind: str = "nf4") -> Quantised:
    return Quantised(kind, "tile16", tied, CPU, torch.float32)


def test_plain_changes_the_dtype_alone() -> None:
    x = torch.randn(3, 4)
    assert Plain(CPU, torch.bfloat16)("a.weight", x)["a.weight"].equal(x.bfloat16())


@pytest.mark.parametrize("kind", ["nf4", "int8"])
def test_a_projection_becomes_codes_and_scales(kind: str) -> None:
    name, x = "model.layers.0.mlp.up_proj.weight", torch.randn(20, 70)
    made = quantised(kind=kind)(name, x)
    assert made.keys() == {name, "model.layers.0.mlp.up_proj.scales"}
    near = dequantise(Packed(kind, "tile16", 20, 70, *made.values()))
    assert (near - x).abs().max() < 0.2 * x.abs().max()


def test_the_head_is_int8_and_norms_are_fp32() -> None:
    assert quantised()(HEAD, torch.randn(20, 64))[HEAD].dtype == torch.int8
    assert quantised()("model.norm.weight", torch.ones(8, dtype=torch.bfloat16))["model.norm.weight"].dtype == torch.float32


def test_a_tied_embedding_is_rows_and_an_int8_head() -> None:
    x = torch.randn(20, 64).bfloat16()
    made = quantised(tied=True)(EMBEDDING, x)
    assert made[EMBEDDING].equal(x)
    assert made[HEAD].dtype == torch.int8
    assert quantised()(EMBEDDING, x).keys() == {EMBEDDING}


def test_weights_no_format_holds_are_refused_by_name() -> None:
    with pytest.raises(Refused, match=r"up_proj.weight cannot be quantised: .*inf"):
        quantised()("model.layers.0.mlp.up_proj.weight", torch.full((16, 64), torch.inf))
