"""How many weights a second the linears of an engine are multiplied with, by the number of tokens that go together."""

import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import cycle, pairwise

import torch
from torch.nn import functional

from specexec.engines.device import DTYPES
from specexec.formats import KINDS, Packed, dequantise, shapes
from specexec.kernels import library, linear, memory, sources

ROWS, COLUMNS = 4096, 14336  # of a matrix of an 8B model
TORCH_ROWS = 512  # of a matrix that torch multiplies, which is slow
WEIGHTS = 2**29  # bytes of matrices gone through before any is met again: a model's come from memory, not from a cache
SECONDS, CALLS = 0.2, 3  # that are measured of each n at the least

Product = Callable[[torch.Tensor], Callable[[], object]]
"""product(x[n, columns]) is a call that multiplies x with the next matrix."""


def name(kind: str, layout: str | None, bits: int) -> str:
    """Of what `rates` measures: another name wherever the figures may be other ones."""
    threads = f"{torch.get_num_threads()} threads"
    if layout != "tile16":
        return f"{kind} by torch {torch.__version__}, {threads}"
    return f"{kind} by {library.instruction_set()} kernels {sources.version()}, {bits}-bit activations, {threads}"


@torch.inference_mode()
def rates(kind: str, layout: str | None, bits: int, counts: Sequence[int], rows: int = ROWS, columns: int = COLUMNS,
          weights: int = WEIGHTS, seconds: float = SECONDS) -> dict[int, float]:
    """{n: weights a second when n tokens go together}, of the median call, for each n of counts.

    nf4, int8 or 3bit in tile16 by the kernels, with activations of so many bits; in rowmajor by their reference; without a
    layout, kind is a dtype's name.
    """
    product, size = _product(kind, layout, bits, rows, columns, weights)
    return {n: size / median(product(torch.randn(n, columns)), seconds) for n in counts}


def _product(kind: str, layout: str | None, bits: int, rows: int, columns: int, weights: int) -> tuple[Product, int]:
    """And the weights of a matrix."""
    if layout == "tile16":
        return _kernels(kind, bits, rows, columns, weights), rows * columns
    rows = min(rows, TORCH_ROWS)
    product = _reference(kind, rows, columns, weights) if layout else _plain(DTYPES[kind], rows, columns, weights)
    return product, rows * columns


def _kernels(kind: str, bits: int, rows: int, columns: int, weights: int) -> Product:
    matrices = cycle(_copies(kind, "tile16", rows, columns, weights))

    def product(x: torch.Tensor) -> Callable[[], object]:
        quantised, out = linear.quantise(x, bits), torch.empty(len(x), rows)
        return lambda: linear.linear([linear.matrix(next(matrices), out)], quantised)

    return product


def _reference(kind: str, rows: int, columns: int, weights: int) -> Product:
    matrices = cycle(_copies(kind, "rowmajor", rows, columns, weights))
    return lambda x: lambda: functional.linear(x, dequantise(next(matrices), x.dtype))


def _plain(dtype: torch.dtype, rows: int, columns: int, weights: int) -> Product:
    first = torch.randn(rows, columns).to(dtype)
    matrices = cycle([first, *(first.clone() for _ in range(_more(first.nbytes, weights)))])
    return lambda x: partial(_multiply, x.to(dtype), matrices)


def _multiply(x: torch.Tensor, matrices: Iterator[torch.Tensor]) -> torch.Tensor:
    return functional.linear(x, next(matrices))


def _copies(kind: str, layout: str, rows: int, columns: int, weights: int) -> list[Packed]:
    """Random codes, and a scale that keeps products small; in huge pages, as a model's are."""
    codes, scales = shapes(kind, layout, rows, columns)
    low, high = (0, 256) if KINDS[kind] == torch.uint8 else (-127, 128)
    drawn = {"codes": torch.randint(low, high, codes, dtype=KINDS[kind]),
             "scales": torch.full(scales, 0.01, dtype=torch.float16)}
    nbytes = sum(tensor.nbytes for tensor in drawn.values())
    return [Packed(kind, layout, rows, columns, **memory.together(drawn)) for _ in range(1 + _more(nbytes, weights))]


def _more(nbytes: int, weights: int) -> int:
    return math.ceil(weights / nbytes) - 1


def median(call: Callable[[], object], seconds: float) -> float:
    """Seconds of the median of as many calls as fit, CALLS at the least; the first one warms up."""
    call()
    ends = [time.perf_counter()]
    while len(ends) <= CALLS or ends[-1] < ends[0] + seconds:
        call()
        ends.append(time.perf_counter())
    return statistics.median(after - before for before, after in pairwise(ends))
