"""Products of quantised matrices and quantised activations (linear.cpp), and what they are in plain torch."""

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from specexec.formats import Packed, dequantise
from specexec.kernels import table
from specexec.kinds import GROUP
from specexec.nf4 import NF4

KINDS = {"nf4": 0, "int8": 1, "q4_0": 2, "q8_0": 3, "3bit": 4}
MOST = {8: 127, 16: 16383}  # the largest code of an activation
DROWNED = 77  # mean square of a group's 8-bit codes, but the largest and zeros, below which it gets 8 bits more (BENCHMARKS.md)
UNITS = {8: 112, 16: 914}  # NF4's levels as whole numbers of this unit: those that round them best (linear.cpp)


@dataclass(frozen=True)
class Activations:
    """x[n, columns] as x = scale * q, per token and group of 64 columns, in the kernels' own order (kernels.h).

    bits: 8 or 16, of a code. Groups whose largest value leaves the others too little of 8 bits have 8 more.
    """

    q: torch.Tensor
    scale: torch.Tensor
    sum: torch.Tensor
    fine: torch.Tensor
    n: int
    columns: int
    bits: int

    @classmethod
    def empty(cls, n: int, columns: int, bits: int) -> "Activations":
        count = n * -(-columns // GROUP)
        q = torch.empty(2 * count * GROUP, dtype=torch.int8).view(torch.int8 if bits == 8 else torch.int16)
        sums = torch.empty((4 if bits == 8 else 2) * count, dtype=torch.int32)
        return cls(q, torch.empty(count), sums, torch.empty(count, dtype=torch.uint8), n, columns, bits)

    def struct(self) -> table.Activations:
        return table.Activations(self.q.data_ptr(), self.scale.data_ptr(), self.sum.data_ptr(), self.fine.data_ptr(), self.n,
                                 -(-self.columns // GROUP), self.bits, table.threads())


def quantise(x: torch.Tensor, bits: int) -> Activations:
    """fp32 x[n, columns], contiguous, to activations."""
    made = Activations.empty(len(x), x.shape[1], bits)
    table.needed().quantise(x.data_ptr(), x.shape[1], ctypes.byref(made.struct()))
    return made


def matrix(weight: Packed, out: torch.Tensor, bias: torch.Tensor | None = None, adds: bool = False) -> table.Matrix:
    """A tile16 weight whose products go to fp32 out[n, >= rows] (rows side by side, any stride of tokens)."""
    return table.Matrix(weight.codes.data_ptr(), weight.scales.data_ptr(), bias.data_ptr() if bias is not None else None,
                        out.data_ptr(), weight.rows, out.stride(0), KINDS[weight.kind], adds)


def linear(matrices: Sequence[table.Matrix], x: Activations) -> None:
    """All products of x in one call."""
    table.needed().linear((table.Matrix * len(matrices))(*matrices), len(matrices), ctypes.byref(x.struct()))


def rounded(x: torch.Tensor, bits: int) -> torch.Tensor:
    """x[n, columns] as quantise sees it, in float64."""
    columns = x.shape[1]
    groups = torch.nn.functional.pad(x, (0, -columns % GROUP)).view(len(x), -1, GROUP)
    most = groups.abs().amax(-1, keepdim=True)
    inverse = torch.where(most > 0, torch.full_like(most, MOST[bits]) / most, 0.0)  # int / tensor rounds twice
    exact = groups * inverse
    codes = exact.round()
    low = ((exact - codes) * 256).round().clamp(-127, 127) / 256
    others = (exact != 0).sum(-1, keepdim=True) - 1
    fine = (codes.square().sum(-1, keepdim=True) < MOST[8] ** 2 + DROWNED * others) & (others > 0) & (bits == 8)
    return ((codes.double() + low * fine) * (most / MOST[bits]).double()).flatten(1)[:, :columns]


def levels(weight: Packed, bits: int) -> torch.Tensor:
    """float64[rows, columns]: the weight with NF4's levels as `bits` activations meet them."""
    if weight.kind != "nf4":
        return dequantise(weight, torch.float64)
    exact = NF4.double()
    near = (exact * UNITS[bits]).round() / UNITS[bits]
    scale = dequantise(Packed(weight.kind, weight.layout, weight.rows, weight.columns,
                              torch.full_like(weight.codes, 0xFF), weight.scales), torch.float64)  # code 15 is 1
    return near[nearest(dequantise(weight, torch.float64) / scale.where(scale > 0, 1.0), exact)] * scale


def nearest(x: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    edges = (values[:-1] + values[1:]) / 2
    return torch.bucketize(x, edges)


def reference(weight: Packed, x: torch.Tensor, bits: int) -> torch.Tensor:
    """float64[n, rows]: the products without any rounding but that of levels and activations."""
    return rounded(x, bits) @ levels(weight, bits).T
