"""K and V as they came, in one growing buffer a layer: the committed rows, then the tree's."""

from collections.abc import Iterator, Sequence

import torch

from specexec.kv.attention import Partial, attend, attend_part, merge
from specexec.kv.cache import KVCache, Rows
from specexec.kv.committed import Committed
from specexec.kv.kept import Form, as_bytes
from specexec.kv.view import Base, View

FIRST_ROWS = 256
DTYPES = {str(dtype): dtype for dtype in (torch.float32, torch.bfloat16, torch.float16)}


class DenseCache(Committed):
    """Implements KVCache. start: position of its first row (a view's tail begins where its base ends).

    rows: of its first buffers; a cache that holds no more never moves or outgrows them.
    """

    def __init__(self, layers: int, start: int = 0, rows: int = FIRST_ROWS) -> None:
        super().__init__(start)
        self.layers, self.first_rows = layers, rows
        self._kv: list[torch.Tensor | None] = [None] * layers  # [2, kv_heads, capacity, dim]

    @property
    def kv_heads(self) -> int:
        """Known once it holds rows."""
        return next(kv.shape[1] for kv in self._kv if kv is not None)

    @property
    def nbytes(self) -> int:
        return sum(kv.nbytes for kv in self._kv if kv is not None)

    def attend(self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, rows: Rows) -> torch.Tensor:
        if rows.root is not None:
            self.asked(layer, q[:, rows.root])
        keys, values = self._write(layer, k, v, rows)
        return attend(q, keys, values, self._bias(rows))

    def attend_part(self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, rows: Rows) -> Partial:
        """The same as one part of a longer attention."""
        keys, values = self._write(layer, k, v, rows)
        return attend_part(q, keys, values, self._bias(rows))

    def attend_committed(self, layer: int, q: torch.Tensor, rows: Rows, length: int) -> Partial:
        """Attention over the first `length` committed rows alone."""
        kv = self._kv[layer]
        assert kv is not None
        bias = rows.prefix_bias(self.start, length) if rows.windowed else rows.bias[:, :0]
        return attend_part(q, kv[0, :, :length], kv[1, :, :length], bias)

    def view(self, kind: str) -> KVCache:
        if kind == "full":
            return DenseView(self)
        from specexec.kv.retrieval import DenseGathering, gather

        return DenseGathering(self, gather(kind))

    def mean_keys(self, layer: int, first: int, last: int, chunk: int) -> torch.Tensor:
        kv = self._kv[layer]
        assert kv is not None
        keys = kv[0, :, first * chunk : last * chunk]
        return keys.reshape(len(keys), last - first, chunk, -1).float().mean(2)

    def picked(self, layer: int, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(k, v)[kv_heads, m, dim] of rows int64[kv_heads, m]; of any where those are beyond its buffers."""
        kv = self._kv[layer]
        assert kv is not None
        heads, at = torch.arange(len(rows), device=kv.device)[:, None], rows.to(kv.device).clamp(max=kv.shape[2] - 1)
        return kv[0][heads, at], kv[1][heads, at]

    def _write(self, layer: int, k: torch.Tensor, v: torch.Tensor, rows: Rows) -> tuple[torch.Tensor, torch.Tensor]:
        end = self.held + rows.visible.shape[1]
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
        return torch.cat((rows.prefix_bias(self.start, self.held), rows.bias), 1)

    @property
    def kind(self) -> str:
        return "dense"

    def form(self) -> Form:
        kv = self._kv[0]
        assert kv is not None
        return {"layers": self.layers, "kv_heads": kv.shape[1], "head_dim": kv.shape[3], "dtype": str(kv.dtype),
                "device": str(kv.device)}

    def pieces(self) -> Iterator[torch.Tensor]:
        return (as_bytes(head) for kv in self._kv if kv is not None for head in kv[:, :, : self.held].flatten(0, 1))

    def _reserve(self, rows: int, form: Form) -> None:
        if form["layers"] != self.layers:
            raise ValueError(f"{dict(form)} is no form of this cache")
        like = torch.empty(int(form["kv_heads"]), 0, int(form["head_dim"]), dtype=DTYPES[str(form["dtype"])],
                           device=str(form["device"]))
        for layer in range(self.layers):
            self._room(layer, like, rows)

    def _move(self, to: int, rows: Sequence[int]) -> None:
        for kv in self._kv:
            if kv is not None:
                kv[:, :, to : to + len(rows)] = kv[:, :, torch.tensor(rows, device=kv.device)]


class DenseView(View[Base, DenseCache]):
    """Another's committed rows, all of them, read in place."""

    def __init__(self, base: Base) -> None:
        super().__init__(base, DenseCache(base.layers))

    @property
    def nbytes(self) -> int:
        return self._fresh().nbytes

    def attend(self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, rows: Rows) -> torch.Tensor:
        tail = self._fresh()
        if not self._seen:
            return tail.attend(layer, q, k, v, rows)
        return merge(self.base.attend_committed(layer, q, rows, self._seen), tail.attend_part(layer, q, k, v, rows))
