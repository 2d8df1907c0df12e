"""K and V as they came, in one growing buffer a layer: the committed rows, then the tree's."""

from collections.abc import Sequence
from typing import Protocol

import torch

from specexec.errors import WrongUsage
from specexec.kv.attention import Partial, attend, attend_part, merge
from specexec.kv.cache import Branches, KVCache, Rows
from specexec.kv.committed import Committed

FIRST_ROWS = 256


class DenseCache(Committed):
    """Implements KVCache. start: position of its first row (a view's tail begins where its base ends).

    rows: of its first buffers; a cache that holds no more never moves or outgrows them.
    """

    def __init__(self, layers: int, start: int = 0, rows: int = FIRST_ROWS) -> None:
        super().__init__(start)
        self.layers, self.first_rows = layers, rows
        self._kv: list[torch.Tensor | None] = [None] * layers  # [2, kv_heads, capacity, dim]

    @property
    def nbytes(self) -> int:
        return sum(kv.nbytes for kv in self._kv if kv is not None)

    def attend(self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, rows: Rows) -> torch.Tensor:
        keys, values = self._write(layer, k, v, rows)
        return attend(q, keys, values, self._bias(rows), rows.softcap)

    def attend_part(self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, rows: Rows) -> Partial:
        """The same as one part of a longer attention."""
        keys, values = self._write(layer, k, v, rows)
        return attend_part(q, keys, values, self._bias(rows), rows.softcap)

    def attend_committed(self, layer: int, q: torch.Tensor, rows: Rows, length: int) -> Partial:
        """Attention over the first `length` committed rows alone."""
        kv = self._kv[layer]
        assert kv is not None
        bias = rows.prefix_bias(self.start, length) if rows.windowed else rows.bias[:, :0]
        return attend_part(q, kv[0, :, :length], kv[1, :, :length], bias, rows.softcap)

    def view(self, kind: str) -> KVCache:
        if kind != "full":
            raise WrongUsage(f'a dense KV cache has no view "{kind}".', hint="--draft-kv full")
        return DenseView(self)

    def _write(self, layer: int, k: torch.Tensor, v: torch.Tensor, rows: Rows) -> tuple[torch.Tensor, torch.Tensor]:
        end = self.length + rows.visible.shape[1]
        kv = self._room(layer, k, end)
        kv[0, :, end - k.shape[1] : end] = k
        kv[1, :, end - v.shape[1] : end] = v
        return kv[0, :, :end], kv[1, :, :end]

    def _room(self, layer: int, like: torch.Tensor, needed: int) -> torch.Tensor:
        kv = self._kv[layer]
        if kv is None or kv.shape[2] < needed:
            capacity = max(needed, self.first_rows if kv is None else 2 * kv.shape[2])
            with torch.inference_mode(False):  # or nobody outside inference mode could move rows
                larger = torch.zeros(2, like.shape[0], capacity, like.shape[2], dtype=like.dtype, device=like.device)
            if kv is not None:
                larger[:, :, : kv.shape[2]] = kv
            self._kv[layer] = kv = larger
        return kv

    def _bias(self, rows: Rows) -> torch.Tensor:
        if not rows.windowed:
            return rows.bias
        return torch.cat((rows.prefix_bias(self.start, self.length), rows.bias), 1)

    def _gather(self, kept: Sequence[int]) -> None:
        for kv in self._kv:
            if kv is not None:
                rows = torch.tensor(kept, device=kv.device) + self.length
                kv[:, :, self.length : self.length + len(kept)] = kv[:, :, rows]


class Base(Protocol):
    """A cache that a view reads."""

    @property
    def layers(self) -> int: ...

    @property
    def version(self) -> int: ...

    @property
    def tokens(self) -> Sequence[int]: ...

    @property
    def length(self) -> int: ...

    def attend_committed(self, layer: int, q: torch.Tensor, rows: Rows, length: int) -> Partial: ...


class DenseView:
    """Implements KVCache over another's committed rows, read in place."""

    def __init__(self, base: Base) -> None:
        self.base = base
        self._version, self._seen = base.version, base.length
        self._tail = DenseCache(base.layers, start=base.length)

    @property
    def tokens(self) -> Sequence[int]:
        tail = self._fresh()
        return [*self.base.tokens[: self._seen], *tail.tokens]

    @property
    def branches(self) -> Branches:
        return self._fresh().branches

    @property
    def length(self) -> int:
        return self._fresh().length + self._seen

    @property
    def nbytes(self) -> int:
        return self._fresh().nbytes

    def attend(self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, rows: Rows) -> torch.Tensor:
        tail = self._fresh()
        if not self._seen:
            return tail.attend(layer, q, k, v, rows)
        return merge(self.base.attend_committed(layer, q, rows, self._seen), tail.attend_part(layer, q, k, v, rows))

    def admit(self, tokens: Sequence[int], parents: Sequence[int]) -> None:
        self._fresh().admit(tokens, parents)

    def rebase(self, path: Sequence[int], survivors: Sequence[int] = ()) -> dict[int, int]:
        return self._fresh().rebase(path, survivors)

    def truncate(self, length: int) -> int:
        kept = self._fresh().truncate(max(0, length - self._seen))
        self._seen = min(self._seen, length)
        self._tail.start = self._seen
        return kept + self._seen

    def view(self, kind: str) -> KVCache:
        raise WrongUsage(f'a view of a KV cache has no view "{kind}" of its own.', hint="--draft-kv full")

    def _fresh(self) -> DenseCache:
        """The tail, a new one where the base has moved."""
        if self._version != self.base.version:
            self._version, self._seen = self.base.version, self.base.length
            self._tail = DenseCache(self.base.layers, start=self._seen)
        return self._tail
