"""Products with quantised weights in plain torch, where our kernels do not run."""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional

from offload.folder import Folder, ResidentWeights
from offload.form import Plain, Quantised
from specexec import formats
from specexec.engines import product
from specexec.engines.families import admit
from specexec.engines.product import Product
from specexec.engines.torch_engine import TorchEngine
from specexec.kv.dense import DenseCache
from tests.models import VOCABULARY, chain, read, saved

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"))]


def on(packed: formats.Packed, device: str) -> formats.Packed:
    return replace(packed, codes=packed.codes.to(device), scales=packed.scales.to(device))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("kind", ["nf4", "int8"])
@pytest.mark.parametrize("shape", [(32, 128), (50, 70)])
def test_it_is_the_product_with_the_dequantised_weight(kind: str, shape: tuple[int, int], device: str) -> None:
    packed = formats.quantise(torch.randn(shape), kind, "rowmajor")
    x, bias = torch.randn(3, shape[1], device=device), torch.randn(shape[0], device=device)
    wanted = functional.linear(x, formats.dequantise(packed).to(device), bias)
    torch.testing.assert_close(Product(on(packed, device), bias)(x), wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("kind", ["nf4", "int8"])
def test_a_large_matrix_is_computed_a_few_rows_at_a_time(kind: str, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    packed = on(formats.quantise(torch.randn(50, 128), kind, "rowmajor"), device)
    of = Product(packed, torch.randn(50, device=device))
    x = torch.randn(3, 128, device=device)
    wanted, rows = of(x), list[int]()
    monkeypatch.setattr(product, "DEQUANTISED", 20 * 128)

    def noted(weight: formats.Packed, dtype: torch.dtype) -> torch.Tensor:
        rows.append(weight.rows)
        return formats.dequantise(weight, dtype)

    monkeypatch.setattr(product, "dequantise", noted)
    torch.testing.assert_close(of(x), wanted, rtol=1e-4, atol=1e-4)
    assert rows == [20, 20, 10] or (kind, device) == ("nf4", "cuda")


@pytest.mark.parametrize("rows", [64, 24])
def test_bitsandbytes_reads_our_rowmajor_codes(rows: int) -> None:
    """The call that CUDA takes, on the CPU: of a whole matrix, and of some of its rows."""
    found = pytest.importorskip("bitsandbytes")
    packed, x = formats.quantise(torch.randn(64, 128), "nf4", "rowmajor"), torch.randn(3, 128)
    some = product._rows(packed, slice(rows))
    state = product._state(x, some, found)
    out = found.matmul_4bit(x, some.codes.view(-1, 1).t(), bias=None, quant_state=state)
    torch.testing.assert_close(out, Product(packed)(x)[:, :rows], rtol=1e-5, atol=1e-5)


class Dequantised(Plain):
    """Weights as the quantised model has them, in fp32."""

    def __call__(self, name: str, tensor: torch.Tensor) -> dict[str, torch.Tensor]:
        kind = "int8" if name == "lm_head.weight" else "nf4" if name.endswith("_proj.weight") else None
        return {name: formats.dequantise(formats.quantise(tensor, kind, "rowmajor")) if kind else tensor}


@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_an_engine_over_quantised_weights_computes_with_their_weights(family: str) -> None:
    folder = Folder(saved(family))
    config = admit(folder.config)
    cpu = torch.device("cpu")

    def logits(form: Plain | Quantised) -> torch.Tensor:
        source = ResidentWeights(folder, config.num_hidden_layers, False, form)
        engine = TorchEngine(config, source, DenseCache(config.num_hidden_layers), VOCABULARY, cpu, torch.float32)
        engine.sync([5, 6])
        return read(engine, chain(7, 8))

    got = logits(Quantised("nf4", "rowmajor", False, cpu, torch.float32))
    torch.testing.assert_close(got, logits(Dequantised(cpu, torch.float32)), rtol=1e-4, atol=1e-4)
