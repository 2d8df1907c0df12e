"""QuantLinear: quantised weights in a transformers model, where our kernels do not run."""

import pytest
import torch
from torch.nn import functional

from offload.folder import Folder, ResidentWeights
from offload.form import Plain, Quantised
from specexec import formats
from specexec.engines.families import admit
from specexec.engines.quant_linear import QuantLinear
from specexec.engines.torch_engine import TorchEngine
from specexec.kv.dense import DenseCache
from tests.models import VOCABULARY, chain, read, saved

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"))]


def made(packed: formats.Packed, device: str, bias: torch.Tensor | None = None) -> QuantLinear:
    layer = QuantLinear(packed.kind, packed.rows, packed.columns, None)
    layer._parameters.update(weight=packed.codes.to(device), scales=packed.scales.to(device), bias=bias)  # type: ignore[arg-type]
    return layer


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("kind", ["nf4", "int8"])
@pytest.mark.parametrize("shape", [(32, 128), (50, 70)])
def test_it_is_the_product_with_the_dequantised_weight(kind: str, shape: tuple[int, int], device: str) -> None:
    packed = formats.quantise(torch.randn(shape), kind, "rowmajor")
    x, bias = torch.randn(1, 3, shape[1], device=device), torch.randn(shape[0], device=device)
    wanted = functional.linear(x, formats.dequantise(packed).to(device), bias)
    torch.testing.assert_close(made(packed, device, bias)(x), wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("kind", ["nf4", "int8"])
def test_a_large_matrix_is_computed_a_few_rows_at_a_time(kind: str, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    layer = made(formats.quantise(torch.randn(50, 128), kind, "rowmajor"), device, torch.randn(50, device=device))
    x = torch.randn(1, 3, 128, device=device)
    wanted, rows = layer(x), list[int]()
    product = layer._product
    monkeypatch.setattr("specexec.engines.quant_linear.DEQUANTISED", 20 * 128)

    def noted(x: torch.Tensor, of: slice) -> torch.Tensor:
        rows.append(len(layer.weight[of]))
        return product(x, of)

    monkeypatch.setattr(layer, "_product", noted)
    torch.testing.assert_close(layer(x), wanted, rtol=1e-4, atol=1e-4)
    assert rows == [20, 20, 10]


@pytest.mark.parametrize("rows", [64, 24])
def test_bitsandbytes_reads_our_rowmajor_codes(rows: int) -> None:
    """The call that CUDA takes, on the CPU: of a whole matrix, and of some of its rows."""
    found = pytest.importorskip("bitsandbytes")
    packed = formats.quantise(torch.randn(64, 128), "nf4", "rowmajor")
    layer, x = made(packed, "cpu"), torch.randn(1, 3, 128)
    state = layer._state(x, layer.scales[:rows], found)
    out = found.matmul_4bit(x, layer.weight[:rows].view(-1, 1).t(), bias=None, quant_state=state)
    torch.testing.assert_close(out, layer(x)[..., :rows], rtol=1e-5, atol=1e-5)


class Dequantised(Plain):
    """Weights as the quantised model has them, in fp32."""

    def __call__(self, name: str, tensor: torch.Tensor) -> dict[str, torch.Tensor]:
        kind = "int8" if name == "lm_head.weight" else "nf4" if name.endswith("_proj.weight") else None
        return {name: formats.dequantise(formats.quantise(tensor, kind, "rowmajor")) if kind else tensor}


@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_an_engine_over_quantised_linears_computes_with_their_weights(family: str) -> None:
    folder = Folder(saved(family))
    config = admit(folder.config)
    cpu = torch.device("cpu")

    def logits(form: Plain | Quantised, quant: str | None) -> torch.Tensor:
        source = ResidentWeights(folder, config.num_hidden_layers, False, form)
        engine = TorchEngine(config, source, DenseCache(config.num_hidden_layers), VOCABULARY, cpu, torch.float32, quant=quant)
        engine.sync([5, 6])
        return read(engine, chain(7, 8))

    got = logits(Quantised("nf4", "rowmajor", False, cpu, torch.float32), "nf4")
    torch.testing.assert_close(got, logits(Dequantised(cpu, torch.float32), None), rtol=1e-4, atol=1e-4)
