"""How many bytes of keys and values a second queries see, by the number of queries that share a head, and by format."""

import math
from collections.abc import Callable, Sequence
from ctypes import pointer
from dataclasses import dataclass
from itertools import cycle

import torch

from specexec.engines.rate import SECONDS, WEIGHTS, median
from specexec.kernels import attention, library, sources, table
from specexec.kernels.hierarchical import GROUP, Groups
from specexec.kv.attention import attend

KV_HEADS, DIM = 8, 128  # of an 8B or a 70B model
ROWS = 32768  # of a layer's cache; of several layers', as there are processors that keep 260 MiB
TORCH_ROWS = 4096  # of one that torch reads, which is slow


def name(layout: str | None, bits: int = 16) -> str:
    """Of what `rates` measures: another name wherever the figures may be other ones."""
    threads = f"{torch.get_num_threads()} threads"
    if layout != "tile16":
        return f"torch {torch.__version__}, {threads}"
    return f"{library.instruction_set()} kernels {sources.version()}, {threads}" + (f", {bits} bits" if bits < 16 else "")


@torch.inference_mode()
def rates(
    layout: str | None, counts: Sequence[int], rows: int | None = None, seconds: float = SECONDS, bits: int = 16,
    together: int = WEIGHTS,
) -> dict[int, float]:
    """{n: bytes of keys and values, as bf16, that n queries of each head see in a second} for each n of counts.

    layout: tile16 for the kernels, else torch in fp32. rows: of the cache. bits: 16, or 8 or 4 of quantised ones, which the
    kernels alone read; also then bytes are counted as bf16's. together: bytes of the layers that are gone through by turns.
    """
    rows = rows or (ROWS if layout == "tile16" else TORCH_ROWS)
    seeing = _plain(rows) if layout != "tile16" else _kernels(rows, bits, together)
    return {n: 2 * 2 * rows * KV_HEADS * DIM / median(seeing(n), seconds) for n in counts}


Seeing = Callable[[int], Callable[[], object]]
"""seeing(n) is a call in which n queries of each head see all rows."""


def _kernels(rows: int, bits: int, together: int) -> Seeing:
    layers = -(-together * 16 // bits // (2 * 2 * rows * KV_HEADS * DIM))
    caches = cycle([_whole(rows) if bits == 16 else _quantised(rows, bits) for _ in range(layers)])

    def seeing(n: int) -> Callable[[], object]:
        tokens, group = _tokens(n)
        q, out = torch.randn(tokens, group * KV_HEADS, DIM) / math.sqrt(DIM), torch.empty(tokens, group * KV_HEADS, DIM)
        parents, seen = torch.empty(0, dtype=torch.int32), torch.zeros(tokens, dtype=torch.int32)

        def see() -> None:
            cache = next(caches)
            attention.attend(q, cache.struct, cache.committed, parents, seen, out)

        return see

    return seeing


@dataclass(frozen=True)
class _Cache:
    """pointed_to: what lives as long as the struct is used."""

    struct: table.Cache
    committed: int
    pointed_to: object


def _whole(rows: int) -> _Cache:
    held = attention.empty_cache(KV_HEADS, rows + 64, DIM)
    for part in held:
        part.fill_(0.1)  # all the same: what is read takes no longer for what it says
    return _Cache(attention.struct(*held), rows, held)


def _quantised(rows: int, bits: int) -> _Cache:
    groups = Groups.empty(KV_HEADS, rows // GROUP, DIM, bits)
    for codes in (groups.upper, groups.lower):
        if codes is not None:
            codes.fill_(0x5A)
    groups.scales.fill_(0.1)
    own, told = attention.empty_cache(KV_HEADS, 64, DIM), groups.struct(groups.capacity, bits, False)
    struct = attention.struct(*own)
    struct.position, struct.quantised = groups.capacity * GROUP, pointer(told)
    return _Cache(struct, 0, (groups, own, told))


def _plain(rows: int) -> Seeing:
    k, v = torch.randn(2, KV_HEADS, rows, DIM)

    def seeing(n: int) -> Callable[[], object]:
        tokens, group = _tokens(n)
        q, bias = torch.randn(group * KV_HEADS, tokens, DIM) / math.sqrt(DIM), torch.zeros(tokens, 0)
        return lambda: attend(q, k, v, bias, None)

    return seeing


def _tokens(queries: int) -> tuple[int, int]:
    """(tokens, queries of each that share a head)"""
    group = min(4, queries)
    return queries // group, group
