"""Products with a matrix in plain torch, its weights as they are or quantised: where our CPU kernels do not run."""

from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch.nn import functional

from specexec.engines.tensors import Tensors, packed, shaped
from specexec.errors import WrongUsage
from specexec.formats import Packed, dequantise
from specexec.kinds import GROUP
from specexec.nf4 import NF4

DEQUANTISED = 2**25  # weights of a matrix at a time: a large one as a whole would take more than a layer's codes


@dataclass(frozen=True)
class Product:
    """weight[rows, columns] in a dtype, or rowmajor codes and scales (formats.py); bias[rows] or none. In the input's dtype.

    NF4 on CUDA goes through bitsandbytes, where it is installed; all else is dequantised a matrix at a time.
    """

    weight: torch.Tensor | Packed
    bias: torch.Tensor | None = None

    @classmethod
    def of(cls, tensors: Tensors, name: str, rows: int, columns: int) -> "Product":
        """Raises Damaged where `tensors` has no such matrix."""
        bias = shaped(tensors, f"{name}.bias", rows) if f"{name}.bias" in tensors else None
        if f"{name}.scales" in tensors:
            return cls(packed(tensors, name, rows, columns, "rowmajor"), bias)
        return cls(shaped(tensors, f"{name}.weight", rows, columns), bias)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """x[n, columns] -> [n, rows]."""
        if isinstance(self.weight, torch.Tensor):
            return functional.linear(x, self.weight, self.bias)
        step = max(DEQUANTISED // self.weight.columns, 1)
        if self.weight.rows <= step:
            return _product(x, self.weight, self.bias)
        out = x.new_empty(len(x), self.weight.rows)
        for start in range(0, self.weight.rows, step):
            part = slice(start, start + step)
            out[:, part] = _product(x, _rows(self.weight, part), None if self.bias is None else self.bias[part])
        return out


def _rows(of: Packed, part: slice) -> Packed:
    return Packed(of.kind, of.layout, len(of.codes[part]), of.columns, of.codes[part], of.scales[part])


def _product(x: torch.Tensor, weight: Packed, bias: torch.Tensor | None) -> torch.Tensor:
    if weight.kind == "nf4" and x.is_cuda and weight.columns % GROUP == 0 and (found := _bitsandbytes()) is not None:
        out: torch.Tensor = found.matmul_4bit(x, weight.codes.view(-1, 1).t(), bias=bias, quant_state=_state(x, weight, found))
        return out
    return functional.linear(x, dequantise(weight, x.dtype), bias)


def _state(x: torch.Tensor, weight: Packed, found: Any) -> Any:
    return found.functional.QuantState(
        absmax=weight.scales.flatten().float(), shape=torch.Size((weight.rows, weight.columns)), code=_levels(x.device),
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
