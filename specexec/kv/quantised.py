"""What every cache of K and V in eight bits, or in four of them, does: whole groups of 128 positions are quantised, and
all rows after them stay as they came.

A query at position t sees groups 0 .. t // 128 - 1 quantised and all later rows as they came: a function of positions alone,
so that plain decoding and trees of any shape, chunks of any size and conversations cut anywhere read the same numbers. A group
that not all of a tree shares is quantised on its way, for those who see it, and stored when its rows are committed.

QuantSpec, Tiwari et al. 2025: its two buffers of full precision are here one of 128 to 255 committed rows, so that a few of
them are taken back for nothing; what it reads of the older half is quantised already, or nothing could be cut at a border.
"""

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Generic, TypeVar

import torch

from specexec.errors import WrongUsage
from specexec.kernels.coded import GROUP, Coded
from specexec.kv.cache import KVCache
from specexec.kv.choice import Gather
from specexec.kv.committed import Committed
from specexec.kv.kept import Form, as_bytes
from specexec.kv.view import Own, Seen, View

FIRST_GROUPS = 8
BITS = {"int8": 8, "int4": 4}
UPPER = "int4"  # the view's kind
Codes = TypeVar("Codes", bound=Coded)


class Quantised(Committed, Generic[Codes]):
    """The bookkeeping. bits: 8 or 4. positions: that will ever be held, or None: as they come. groups: each layer's; the last
    ones alone where others are elsewhere.

    A subclass says where rows and codes lie, and attends.
    """

    bits: int
    positions: int | None
    groups: list[Codes]
    made = 0  # groups that are there

    @property
    def held(self) -> int:
        return self.length - self.start

    @property
    def kind(self) -> str:
        return next(name for name, bits in BITS.items() if bits == self.bits)

    def rebase(self, path: Sequence[int], survivors: Sequence[int] = ()) -> dict[int, int]:
        self._room_for((self.length + len(path)) // GROUP)
        remap = super().rebase(path, survivors)
        if self.length // GROUP > self.made:
            self._compress(len(survivors))
        return remap

    def truncate(self, length: int) -> int:
        """Rows that are quantised only are kept by whole groups."""
        kept = super().truncate(self.border(length, self.length))
        if kept // GROUP < self.made or kept < self.start:
            self.made, self.start = kept // GROUP, min(self.start, kept // GROUP * GROUP)
            self._changed()
        return kept

    def border(self, length: int, held: int) -> int:
        return length // GROUP * GROUP if length < min(held, self.start) else length

    def reset(self, start: int) -> None:
        raise NotImplementedError("its rows are never a view's tail")

    def view(self, kind: str) -> KVCache:
        from specexec.kv.retrieval import KINDS

        if kind in KINDS:
            return self._chosen(KINDS[kind])
        if kind != UPPER or self.bits != BITS["int8"]:
            others = f"--draft-kv {', '.join(KINDS)}"
            hint = f"{others}, or int4" if self.bits == BITS["int8"] else f"{others}, or --kv int8"
            raise WrongUsage(f'a KV cache of {self.bits} bits has no view "{kind}".', hint=hint)
        return self._upper()

    def codes(self, layer: int, rows: torch.Tensor | None = None) -> AbstractContextManager[Codes]:
        """A layer's groups, inside the context. rows: int64, of those that are read; all where none are named."""
        return nullcontext(self.groups[layer])

    def mean_keys(self, layer: int, first: int, last: int, chunk: int) -> torch.Tensor:
        """Of quantised rows those of their upper nibbles."""
        start, parts = self.start // chunk, []
        if first < start:
            with self.codes(layer) as groups:
                parts.append(groups.mean_keys(first, min(last, start), chunk))
        if last > start:
            parts.append(self._mean_held(layer, max(first, start) - start, last - start, chunk))
        return torch.cat(parts, 1)

    # What follows adds to what the cache beside this class has of the same name; Committed itself has none.

    @property
    def nbytes(self) -> int:
        return super().nbytes + sum(groups.nbytes for groups in self.groups)  # type: ignore[safe-super]

    def form(self) -> Form:
        return {**super().form(), "start": self.start}  # type: ignore[safe-super]

    def pieces(self) -> Iterator[torch.Tensor]:
        yield from super().pieces()  # type: ignore[safe-super]
        for groups in self.groups:
            for head in zip(*groups.parts(), strict=True):
                yield from (as_bytes(part[: self.made]) for part in head)

    def _reserve_groups(self, rows: int, form: Form, own: Form) -> int:
        """As _reserve; own: the form this cache would have. Returns how many rows its buffers are to hold."""
        made, start = rows // GROUP, int(form["start"])
        if form != {**own, "start": start} or start not in range(0, made * GROUP + 1, GROUP):
            raise ValueError(f"{dict(form)} is no form of this cache")
        self._room_for(made)
        self.made, self.start = made, start
        return rows - start

    def _compress(self, survivors: int) -> None:
        """All whole groups are stored, and the rows before the last of them leave the buffer."""
        whole = self.length // GROUP
        self._store(self.made, whole)
        self.made, start = whole, (whole - 1) * GROUP
        if start > self.start:
            gone, self.start = start - self.start, start
            self._move(0, range(gone, gone + self.held + survivors))
        self._changed()

    def _room_for(self, groups: int) -> None:
        groups -= self.groups[0].first
        if groups <= self.groups[0].capacity:
            return
        wanted = max(FIRST_GROUPS, 2 * self.groups[0].capacity)
        most = self.positions // GROUP if self.positions is not None else wanted
        with torch.inference_mode(False):
            for layer, old in enumerate(self.groups):  # one by one: two copies of all would be more than was planned
                self.groups[layer] = old.grown(max(groups, min(wanted, most)))
        self._changed()

    @abstractmethod
    def _changed(self) -> None:
        """Rows are, or groups lie, where they were not."""

    @abstractmethod
    def _store(self, first: int, last: int) -> None:
        """Groups first..last - 1 are made of rows that all lie in the buffers."""

    @abstractmethod
    def _mean_held(self, layer: int, first: int, last: int, chunk: int) -> torch.Tensor:
        """As mean_keys, of the buffers' rows, counted from theirs."""

    @abstractmethod
    def _upper(self) -> KVCache:
        """The view of all upper nibbles."""

    @abstractmethod
    def _chosen(self, of: Gather) -> KVCache:
        """The view of chosen rows, whose upper nibbles alone are read of groups that have left the buffer."""


class UpperHalf(View[Seen, Own]):
    """A view of all rows for a draft of the same weights: of groups that have left the buffer the upper nibbles, a quarter of
    bf16's bytes, and the buffer's as they are.
    """

    @property
    def nbytes(self) -> int:
        return self._fresh().nbytes

    def doubt(self) -> None:
        """It sees all there is."""

    def asked(self, layer: int, query: torch.Tensor) -> None:
        """Nothing is chosen."""
