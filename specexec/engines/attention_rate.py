"""How many bytes of keys and values a second queries see, by how many share a head, by format, all rows or chosen ones."""

import math
from collections.abc import Callable, Iterator, Sequence
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


def name(layout: str | None, bits: int = 16, chosen: int | None = None) -> str:
    """Of what `rates` measures: another name wherever the figures may be other ones."""
    threads = f"{torch.get_num_threads()} threads"
    if layout != "tile16":
        return f"torch {torch.__version__}, {threads}"
    of = (f", {bits} bits" if bits < 16 else "") + (f", {chosen} chosen rows" if chosen else "")
    return f"{library.instruction_set()} kernels {sources.version()}, {threads}{of}"


@torch.inference_mode()
def rates(
    layout: str | None, counts: Sequence[int], rows: int | None = None, seconds: float = SECONDS, bits: int = 16,
    together: int = WEIGHTS, chosen: int | None = None,
) -> dict[int, float]:
    """{n: bytes of keys and values, as bf16, that n queries of each head see in a second} for each n of counts.

    layout: tile16 for the kernels, else torch in fp32. rows: of the cache. bits: 16, or 8 or 4 of quantised ones, which the
    kernels alone read; also then bytes are counted as bf16's. together: bytes of the layers that are gone through by turns.
    chosen: of a cache's rows, that each query sees, as a view of the kernels has them.
    """
    rows = rows or (ROWS if layout == "tile16" else TORCH_ROWS)
    layers = -(-together * 16 // bits // _bytes(rows))
    seeing = _kernels(list(_caches(layers, rows, bits, chosen))) if layout == "tile16" else _plain(rows)
    return {n: _bytes(chosen or rows) / median(seeing(n), seconds) for n in counts}


def _bytes(rows: int) -> int:
    """Of so many keys and values in bf16."""
    return 2 * 2 * rows * KV_HEADS * DIM


Seeing = Callable[[int], Callable[[], object]]
"""seeing(n) is a call in which n queries of each head see all rows."""


def _kernels(caches: Sequence["_Cache"]) -> Seeing:
    by_turns = cycle(caches)

    def seeing(n: int) -> Callable[[], object]:
        tokens, group = _tokens(n)
        q, out = torch.randn(tokens, group * KV_HEADS, DIM) / math.sqrt(DIM), torch.empty(tokens, group * KV_HEADS, DIM)
        parents, seen = torch.empty(0, dtype=torch.int32), torch.zeros(tokens, dtype=torch.int32)

        def see() -> None:
            cache = next(by_turns)
            attention.attend(q, cache.struct, cache.committed, parents, seen, out)

        return see

    return seeing


@dataclass(frozen=True)
class _Cache:
    """pointed_to: what lives as long as the struct is used."""

    struct: table.Cache
    committed: int
    pointed_to: object


def _caches(layers: int, rows: int, bits: int, chosen: int | None) -> Iterator[_Cache]:
    """One a layer; where rows are chosen, as many choices of each as it takes until all of it was read."""
    for _ in range(layers):
        own, groups = _buffers(rows if bits == 16 else 0), _groups(rows, bits) if bits < 16 else None
        for tiles in _choices(rows, chosen) if chosen else [None]:
            if groups is not None:
                yield _quantised(own, groups, bits, tiles)
            else:
                yield _Cache(attention.struct(*own), rows, own) if tiles is None else _gathered(own, rows, tiles)


def _buffers(rows: int) -> attention.Buffers:
    held = attention.empty_cache(KV_HEADS, rows + 64, DIM)
    for part in held:
        part.fill_(0.1)  # all the same: what is read takes no longer for what it says
    return held


def _groups(rows: int, bits: int) -> Groups:
    groups = Groups.empty(KV_HEADS, rows // GROUP, DIM, bits)
    for codes in (groups.upper, groups.lower):
        if codes is not None:
            codes.fill_(0x5A)
    groups.scales.fill_(0.1)
    return groups


def _choices(rows: int, chosen: int) -> list[torch.Tensor]:
    """Parts int32[kv_heads, chosen/16] of all tiles of 16 rows, in order, each head's own."""
    tiles, each = rows // attention.ROWS, chosen // attention.ROWS
    drawn = torch.stack([torch.randperm(tiles) for _ in range(KV_HEADS)])
    return [drawn[:, start : start + each].sort(1).values.int() for start in range(0, tiles - each + 1, each)]


def _gathered(held: attention.Buffers, rows: int, tiles: torch.Tensor) -> _Cache:
    eights = torch.stack((2 * tiles, 2 * tiles + 1), 2).view(KV_HEADS, -1, attention.EIGHTS)
    own, told = _buffers(0), attention.gathered(*held, eights)
    struct = attention.struct(*own)
    struct.position, struct.gathered = rows, pointer(told)
    return _Cache(struct, 0, (held, eights, own, told))


def _quantised(own: attention.Buffers, groups: Groups, bits: int, tiles: torch.Tensor | None) -> _Cache:
    told, struct = groups.struct(groups.capacity, bits, False, tiles), attention.struct(*own)
    struct.position, struct.quantised = groups.capacity * GROUP, pointer(told)
    return _Cache(struct, 0, (groups, own, tiles, told))


def _plain(rows: int) -> Seeing:
    k, v = torch.randn(2, KV_HEADS, rows, DIM)

    def seeing(n: int) -> Callable[[], object]:
        tokens, group = _tokens(n)
        q, bias = torch.randn(group * KV_HEADS, tokens, DIM) / math.sqrt(DIM), torch.zeros(tokens, 0)
        return lambda: attend(q, k, v, bias)

    return seeing


def _tokens(queries: int) -> tuple[int, int]:
    """(tokens, queries of each that share a head)"""
    group = min(4, queries)
    return queries // group, group
