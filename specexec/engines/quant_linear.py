"""A linear layer over quantised weights for transformers' models: where our CPU kernels do not run."""

from typing import Any

import torch
from torch import nn
from torch.nn import functional

from specexec.formats import GROUP, KINDS, NF4, Packed, dequantise, shapes


class QuantLinear(nn.Module):
    """weight: the codes, scales: the absmaxima (formats.py, layout rowmajor). Computes in the input's dtype.

    NF4 on CUDA goes through bitsandbytes, where it is installed; all else is dequantised a matrix at a time.
    """

    bias: nn.Parameter | None

    def __init__(self, kind: str, rows: int, columns: int, bias: nn.Parameter | None) -> None:
        super().__init__()
        self.kind, self.rows, self.columns = kind, rows, columns
        codes, scales = shapes(kind, "rowmajor", rows, columns)
        self.weight = nn.Parameter(torch.empty(codes, dtype=KINDS[kind], device="meta"), requires_grad=False)
        self.scales = nn.Parameter(torch.empty(scales, dtype=torch.float16, device="meta"), requires_grad=False)
        self.register_parameter("bias", bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x[..., columns] -> [..., rows]."""
        if self.kind == "nf4" and x.is_cuda and self.columns % GROUP == 0 and (found := _bitsandbytes()) is not None:
            codes = self.weight.view(-1, 1).t()
            out: torch.Tensor = found.matmul_4bit(x, codes, bias=self.bias, quant_state=self._state(x, found))
            return out
        weight = dequantise(Packed(self.kind, "rowmajor", self.rows, self.columns, self.weight, self.scales), x.dtype)
        return functional.linear(x, weight, self.bias)

    def _state(self, x: torch.Tensor, found: Any) -> Any:
        return found.functional.QuantState(
            absmax=self.scales.flatten().float(), shape=torch.Size((self.rows, self.columns)), code=NF4.to(x.device),
            blocksize=GROUP, quant_type="nf4", dtype=x.dtype)


def _bitsandbytes() -> Any:
    try:
        import bitsandbytes
    except ImportError:
        return None
    return bitsandbytes


def quantise_linears(model: nn.Module, kind: str) -> None:
    """Puts a QuantLinear in the place of every projection of `model`'s layers, and an int8 one in that of its head."""
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.Linear):
            owner, _, leaf = name.rpartition(".")
            setattr(model.get_submodule(owner), leaf,
                    QuantLinear("int8" if name == "lm_head" else kind, module.out_features, module.in_features, module.bias))
