"""K and V in eight bits, or in four of them: whole groups of 128 positions quantised, the rows after them in bf16.

A query at position t sees groups 0 .. t // 128 - 1 quantised and all later rows in bf16: a function of positions alone, so that
plain decoding and trees of any shape, chunks of any size and conversations cut anywhere read the same numbers. A group that not
all of a tree shares is quantised on its way, for those who see it, and stored when its rows are committed.

QuantSpec, Tiwari et al. 2025: its two buffers of full precision are here one of 128 to 255 committed rows, so that a few of
them are taken back for nothing; what it reads of the older half is quantised already, or nothing could be cut at a border.
"""

from collections.abc import Iterator, Sequence

import torch

from specexec.errors import WrongUsage
from specexec.kernels import attention, table
from specexec.kernels.attention import EIGHT, EIGHTS
from specexec.kernels.hierarchical import GROUP, Groups
from specexec.kv.blocks import BlockCache, OverBlocks
from specexec.kv.cache import KVCache
from specexec.kv.kept import Form, as_bytes

FIRST_GROUPS = 8
BITS = {"int8": 8, "int4": 4}
UPPER = "int4"  # the view's kind


class HierarchicalCache(BlockCache):
    """Implements KVCache. bits: 8 or 4. most: positions that will ever be held; tree: rows of the largest pass, and below it of
    the one that takes its place. None for either: as they come.
    """

    def __init__(
        self, layers: int, kv_heads: int, head_dim: int, bits: int, most: int | None = None, tree: int | None = None,
    ) -> None:
        super().__init__(layers, kv_heads, head_dim, None if tree is None else 2 * GROUP + tree)
        self.bits, self.positions = bits, most
        self.groups: list[Groups] = [Groups.empty(kv_heads, 0, head_dim, bits) for _ in range(layers)]
        self.made = 0  # groups that are there

    @property
    def held(self) -> int:
        return self.length - self.start

    @property
    def nbytes(self) -> int:
        return super().nbytes + sum(groups.nbytes for groups in self.groups)

    def describe(self) -> None:
        self.quantised = [groups.struct(self.made, self.bits, True) for groups in self.groups]
        super().describe()

    def rebase(self, path: Sequence[int], survivors: Sequence[int] = ()) -> dict[int, int]:
        self._room_for((self.length + len(path)) // GROUP)
        remap = super().rebase(path, survivors)
        if self.length // GROUP > self.made:
            self._compress(len(survivors))
        return remap

    def truncate(self, length: int) -> int:
        """Rows that are quantised only are kept by whole groups."""
        kept = super().truncate(border(length, self.length, self.start))
        if kept // GROUP < self.made or kept < self.start:
            self.made, self.start = kept // GROUP, min(self.start, kept // GROUP * GROUP)
            self.describe()
        return kept

    def reset(self, start: int) -> None:
        raise NotImplementedError("its rows are never a view's tail")

    def view(self, kind: str) -> KVCache:
        from specexec.kv.retrieval import KINDS
        from specexec.kv.upper import UpperGathering

        if kind in KINDS:
            return UpperGathering(self, KINDS[kind])
        if kind != UPPER or self.bits != BITS["int8"]:
            others = f"--draft-kv {', '.join(KINDS)}"
            hint = f"{others}, or int4" if self.bits == BITS["int8"] else f"{others}, or --kv int8"
            raise WrongUsage(f'a KV cache of {self.bits} bits has no view "{kind}".', hint=hint)
        return UpperView(self)

    @property
    def kind(self) -> str:
        return next(name for name, bits in BITS.items() if bits == self.bits)

    def form(self) -> Form:
        return {**super().form(), "start": self.start}

    def pieces(self) -> Iterator[torch.Tensor]:
        yield from super().pieces()
        for groups in self.groups:
            for head in range(self.kv_heads):
                yield from (as_bytes(part[head, : self.made]) for part in groups.parts())

    def _reserve(self, rows: int, form: Form) -> None:
        made, start = rows // GROUP, int(form["start"])
        if form != {**self.form(), "start": start} or start not in range(0, made * GROUP + 1, GROUP):
            raise ValueError(f"{dict(form)} is no form of this cache")
        self._room_for(made)
        self.room(rows - start)
        self.made, self.start = made, start
        self.describe()

    def mean_keys(self, layer: int, first: int, last: int, chunk: int) -> torch.Tensor:
        """Of quantised rows those of their upper nibbles."""
        start = self.start // chunk
        parts = [self.groups[layer].mean_keys(first, min(last, start), chunk)] if first < start else []
        if last > start:
            parts.append(super().mean_keys(layer, max(first, start) - start, last - start, chunk))
        return torch.cat(parts, 1)

    def _compress(self, survivors: int) -> None:
        """All whole groups are stored, and the rows before the last of them leave the buffer."""
        whole = self.length // GROUP
        table.needed().compress(self.structs, self.layers, self.made, whole, table.threads())
        self.made, start = whole, (whole - 1) * GROUP
        if start > self.start:
            gone, self.start = start - self.start, start
            self._move(0, range(gone, gone + self.held + survivors))
        self.describe()

    def _room_for(self, groups: int) -> None:
        if groups <= self.groups[0].capacity:
            return
        wanted = max(FIRST_GROUPS, 2 * self.groups[0].capacity)
        most = self.positions // GROUP if self.positions is not None else wanted
        with torch.inference_mode(False):
            for layer, old in enumerate(self.groups):  # one by one: two copies of all would be more than was planned
                self.groups[layer] = old.grown(max(groups, min(wanted, most)))
        self.describe()


class UpperView(OverBlocks["HierarchicalCache"]):
    """The same rows for a draft of the same weights: of groups that have left the buffer the upper nibbles, a quarter of bf16's
    bytes, and the buffer's as they are.
    """

    def __init__(self, base: HierarchicalCache) -> None:
        super().__init__(base, BlockCache(base.layers, base.kv_heads, base.head_dim))
        self._held: list[object] = []  # what the kernels are pointed to

    @property
    def nbytes(self) -> int:
        return self._fresh().nbytes

    def truncate(self, length: int) -> int:
        return super().truncate(border(length, self.length, self.base.start))

    def doubt(self) -> None:
        """It sees all there is."""

    def asked(self, layer: int, query: torch.Tensor) -> None:
        """Nothing is chosen."""

    def _see(self, rows: int) -> None:
        super()._see(rows)
        base, kv = self.base, self.base.buffers()
        if not rows or not kv:
            return
        start = min(base.start, rows // GROUP * GROUP)
        eights = _all_eights(rows - base.start, base.kv_heads)
        self._tail.quantised = [groups.struct(start // GROUP, BITS[UPPER], False) for groups in base.groups]
        self._tail.gathered = [attention.gathered(*of_layer, eights, base.start) for of_layer in kv]
        self._held = [eights, kv, list(base.groups)]
        self._tail.describe()


def border(length: int, held: int, start: int) -> int:
    """What is left of `held` rows, of which those before `start` go by whole groups, when `length` are to be kept."""
    return length // GROUP * GROUP if length < min(held, start) else length


def _all_eights(rows: int, kv_heads: int) -> torch.Tensor:
    """int32[kv_heads, blocks, 8]"""
    eights = torch.arange(max(0, -(-rows // EIGHT)), dtype=torch.int32)
    return torch.nn.functional.pad(eights, (0, -len(eights) % EIGHTS), value=-1).view(-1, EIGHTS).repeat(kv_heads, 1, 1)
