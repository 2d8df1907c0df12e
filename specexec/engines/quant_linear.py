"""A linear layer over quantised weights for transformers' models: where our CPU kernels do not run."""

from functools import cache
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from specexec.errors import WrongUsage
from specexec.formats import GROUP, KINDS, Packed, dequantise, shapes, told
from specexec.nf4 import NF4

DEQUANTISED = 2**25  # weights of a matrix at a time: a large one as a whole would take more than a layer's codes


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
        step = max(DEQUANTISED // self.columns, 1)
        if self.rows <= step:
            return self._product(x, slice(0, self.rows))
        out = x.new_empty(*x.shape[:-1], self.rows)
        for start in range(0, self.rows, step):
            out[..., start : start + step] = self._product(x, slice(start, start + step))
        return out

    def _product(self, x: torch.Tensor, rows: slice) -> torch.Tensor:
        """With these rows of the weight."""
        codes, scales, bias = self.weight[rows], self.scales[rows], None if self.bias is None else self.bias[rows]
        kind = told(codes, scales) or self.kind  # a GGUF file's matrices are of several
        if kind == "nf4" and x.is_cuda and self.columns % GROUP == 0 and (found := _bitsandbytes()) is not None:
            state = self._state(x, scales, found)
            out: torch.Tensor = found.matmul_4bit(x, codes.view(-1, 1).t(), bias=bias, quant_state=state)
            return out
        weight = dequantise(Packed(kind, "rowmajor", len(codes), self.columns, codes, scales), x.dtype)
        return functional.linear(x, weight, bias)

    def _state(self, x: torch.Tensor, scales: torch.Tensor, found: Any) -> Any:
        return found.functional.QuantState(
            absmax=scales.flatten().float(), shape=torch.Size((len(scales), self.columns)), code=_levels(x.device),
            blocksize=GROUP, quant_type="nf4", dtype=x.dtype)


@cache
def _levels(device: torch.device) -> torch.Tensor:
    """NF4's, kept: a copy from this machine's memory would wait for all that the device has yet to compute."""
    return NF4.to(device)


def _bitsandbytes() -> Any:
    try:
        import bitsandbytes
    except ImportError:
        return None
    return bitsandbytes


def check_cuda(kind: str) -> None:
    """Raises WrongUsage where matrices of `kind` are not computed on CUDA as this machine is."""
    if kind == "nf4" and _bitsandbytes() is None:
        raise WrongUsage("NF4 is computed on CUDA by bitsandbytes, which is not installed.",
                         hint='pip install "bitsandbytes>=0.48", or --device cpu')


def quantise_linears(model: nn.Module, kind: str) -> None:
    """Puts a QuantLinear in the place of every projection of `model`'s layers, and an int8 one in that of its head."""
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.Linear):
            owner, _, leaf = name.rpartition(".")
            setattr(model.get_submodule(owner), leaf,
                    QuantLinear("int8" if name == "lm_head" else kind, module.out_features, module.in_features, module.bias))
