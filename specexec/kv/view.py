"""What every view of a cache is: the base's committed rows, as far as it sees them, and a tail of its own."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Generic, Protocol, TypeVar

import torch

from specexec.errors import WrongUsage
from specexec.kv.attention import Partial
from specexec.kv.cache import Branches, KVCache, Rows
from specexec.kv.committed import Committed
from specexec.prefix import common


class Base(Protocol):
    """A cache that a view reads."""

    queries: dict[int, torch.Tensor] | None
    cuts: list[int]

    @property
    def layers(self) -> int: ...

    @property
    def kv_heads(self) -> int: ...

    @property
    def version(self) -> int: ...

    @property
    def tokens(self) -> Sequence[int]: ...

    @property
    def length(self) -> int: ...

    def alike(self, tokens: Sequence[int]) -> int: ...

    def border(self, length: int, held: int) -> int: ...

    def attend_committed(self, layer: int, q: torch.Tensor, rows: Rows, length: int) -> Partial: ...

    def mean_keys(self, layer: int, first: int, last: int, chunk: int) -> torch.Tensor:
        """fp32[kv_heads, last - first, dim]: the means of the keys of committed chunks first..last - 1 of `chunk` rows."""


Own = TypeVar("Own", bound=Committed)
Seen = TypeVar("Seen", bound=Base)


class View(ABC, Generic[Seen, Own]):
    """Implements KVCache but for attention. A base that has moved drops the tail."""

    def __init__(self, base: Seen, tail: Own) -> None:
        self.base, self._tail = base, tail
        self._version, self._seen, self._cuts = -1, 0, 0

    @property
    def tokens(self) -> Sequence[int]:
        tail = self._fresh()
        return [*self.base.tokens[: self._seen], *tail.tokens]

    def alike(self, tokens: Sequence[int]) -> int:
        tail, kept = self._fresh(), min(self.base.alike(tokens), self._seen)
        return kept if kept < self._seen else kept + common(tail.tokens, tokens[kept:])

    @property
    def branches(self) -> Branches:
        return self._fresh().branches

    @property
    def length(self) -> int:
        return self._fresh().length + self._seen

    @property
    @abstractmethod
    def nbytes(self) -> int: ...

    @abstractmethod
    def attend(self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, rows: Rows) -> torch.Tensor: ...

    def admit(self, tokens: Sequence[int], parents: Sequence[int]) -> None:
        self._fresh().admit(tokens, parents)

    def rebase(self, path: Sequence[int], survivors: Sequence[int] = ()) -> dict[int, int]:
        return self._fresh().rebase(path, survivors)

    def leap(self, tokens: Sequence[int]) -> int:
        return 0  # the tail's rows are all seen

    def truncate(self, length: int) -> int:
        tail = self._fresh()
        length = self.base.border(length, self.length)
        if length >= self._seen:
            return tail.truncate(length - self._seen) + self._seen
        self._see(length)
        return length

    def view(self, kind: str) -> KVCache:
        raise WrongUsage(f'a view of a KV cache has no view "{kind}" of its own.', hint="--draft-kv full")

    def _fresh(self) -> Own:
        """The tail, emptied where the base has moved."""
        if self._version != self.base.version:
            self._moved(min(self.base.cuts[self._cuts :], default=self.base.length))
            self._version, self._cuts = self.base.version, len(self.base.cuts)
            self._see(self.base.length)
        return self._tail

    def _moved(self, kept: int) -> None:
        """The base has moved; `kept` of the rows it had are still the same."""

    def _see(self, rows: int) -> None:
        """The view is to see the base's first `rows` rows, and nothing of its own."""
        self._seen = rows
        self._tail.reset(rows)
