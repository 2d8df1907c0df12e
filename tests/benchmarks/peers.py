"""Other people's products with 4-bit and plain weights, as arms for kernel_linear.py. Those that are absent say why."""

import copy
import ctypes
import itertools
import math
from collections.abc import Callable
from ctypes import c_int, c_size_t, c_void_p
from typing import Any, Generic, TypeVar

import torch
from torch.nn import functional

from specexec.kinds import GROUP
from tests.benchmarks.machine import prototype

FOOTPRINT = 5 * 2**27  # bytes of weights gone through before any is met again: they come from memory, as a model's do
Item = TypeVar("Item")
Arm = Callable[[], object]


class Copies(Generic[Item]):
    """So many copies of one weight that no cache holds them all, handed out in turn."""

    def __init__(self, first: Item, nbytes: int, again: Callable[[Item], Item]) -> None:
        self.nbytes = nbytes
        self.items = [first, *(again(first) for _ in range(math.ceil(FOOTPRINT / nbytes) - 1))]
        self._turn = itertools.cycle(self.items)

    def next(self) -> Item:
        return next(self._turn)


def clones(*tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
    return tuple(x.clone() for x in tensors)


class Plain:
    """torch's F.linear with a weight of dtype."""

    def __init__(self, rows: int, columns: int, dtype: torch.dtype) -> None:
        weight = torch.randn(rows, columns).to(dtype)
        self.dtype, self.weights = dtype, Copies(weight, weight.nbytes, torch.clone)

    def arm(self, x: torch.Tensor) -> Arm:
        x = x.to(self.dtype)
        return lambda: functional.linear(x, self.weights.next())


class Int4Pack:
    """torch's own int4 in groups of 64, x in bf16."""

    def __init__(self, rows: int, columns: int) -> None:
        codes = torch.ops.aten._convert_weight_to_int4pack_for_cpu(torch.randint(0, 16, (rows, columns), dtype=torch.int32), 1)
        scales = torch.full((columns // GROUP, rows, 2), 0.01, dtype=torch.bfloat16)
        self.weights = Copies((codes, scales), codes.nbytes + scales.nbytes, lambda pair: clones(*pair))

    def arm(self, x: torch.Tensor) -> Arm:
        x, multiply = x.bfloat16(), torch.ops.aten._weight_int4pack_mm_for_cpu

        def run() -> object:
            codes, scales = self.weights.next()
            return multiply(x, codes, GROUP, scales)

        return run


class Bitsandbytes:
    """Its Linear4bit in NF4: fused where the CPU has bf16 products, dequantised to dtype at each call elsewhere."""

    def __init__(self, rows: int, columns: int, dtype: torch.dtype) -> None:
        import bitsandbytes

        made = bitsandbytes.nn.Linear4bit(columns, rows, bias=False, compute_dtype=dtype, quant_type="nf4",
                                          compress_statistics=False)
        made.weight = bitsandbytes.nn.Params4bit(torch.randn(rows, columns).to(dtype), requires_grad=False,
                                                 quant_type="nf4", compress_statistics=False)
        made = made.to("cpu").eval()
        self.dtype = dtype
        with torch.inference_mode():
            made(torch.zeros(1, columns, dtype=dtype))  # packs
        self.fused = bool(getattr(made.weight.quant_state, "packing_format_for_cpu", False))
        self.weights = Copies(made, rows * columns // 2, copy.deepcopy)

    def arm(self, x: torch.Tensor) -> Arm:
        x = x.to(self.dtype)

        @torch.inference_mode()
        def run() -> object:
            return self.weights.next()(x)

        return run


class Prototype:
    """The probe's int4 with 8-bit activations that are there already."""

    def __init__(self, rows: int, columns: int) -> None:
        library = prototype()
        if library is None:
            raise ImportError("there is no ../shared/probe/kern.cpp, or it does not compile")
        self.rows, self.columns, self._multiply = rows, columns, library.q4q8
        self._multiply.argtypes = (*[c_void_p] * 6, *[c_size_t] * 3, c_int)
        codes = torch.randint(0, 256, (rows * columns // 2,), dtype=torch.uint8)
        scales = torch.full((rows * columns // GROUP,), 0.01)
        self.weights = Copies((codes, scales), codes.nbytes + scales.nbytes, lambda pair: clones(*pair))

    def arm(self, x: torch.Tensor) -> Arm:
        n, groups = len(x), self.columns // GROUP
        q, out = torch.randint(-127, 128, (n, self.columns), dtype=torch.int8), torch.empty(n, self.rows)
        scale, total = torch.full((n, groups), 0.01), q.view(n, groups, GROUP).sum(-1, dtype=torch.int32)
        ends = tuple(x.data_ptr() for x in (q, scale, total, out))
        held = q, scale, total, out

        def run() -> object:
            codes, scales = self.weights.next()
            self._multiply(codes.data_ptr(), scales.data_ptr(), *ends, n, self.rows, self.columns, GROUP)
            return held

        return run


PEERS: dict[str, Callable[[int, int], Any]] = {
    "prototype": Prototype,
    "bnb bf16": lambda rows, columns: Bitsandbytes(rows, columns, torch.bfloat16),
    "bnb fp32": lambda rows, columns: Bitsandbytes(rows, columns, torch.float32),
    "int4pack": Int4Pack,
    "torch bf16": lambda rows, columns: Plain(rows, columns, torch.bfloat16),
    "torch fp32": lambda rows, columns: Plain(rows, columns, torch.float32),
}


def peers(rows: int, columns: int) -> tuple[dict[str, Any], list[str]]:
    """(those that are here, what is to be said of them and of those that are not)."""
    found, notes = {}, []
    for name, make in PEERS.items():
        try:
            found[name] = make(rows, columns)
        except (ImportError, RuntimeError, OSError, ctypes.ArgumentError) as error:
            notes.append(f"{name} is absent: {error}")
        else:
            if isinstance(found[name], Bitsandbytes) and not found[name].fused:
                notes.append(f"{name} is not fused: that asks for a CPU with bf16 products")
    return found, notes
