"""A cache that keeps the first rows and the recent ones: its passes cost the same however long the context is.

Keys stay as they were turned by RoPE. Those of the first rows (sinks) are turned on by the gap, so that they stand right before
the recent ones and no distance exceeds what a small model has learnt.   StreamingLLM, Xiao et al. 2024
"""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from specexec.errors import WrongUsage
from specexec.kernels import attention
from specexec.kv.blocks import BlockCache
from specexec.kv.cache import KVCache
from specexec.kv.committed import Committed
from specexec.kv.dense import DenseCache


@dataclass(frozen=True)
class Sight:
    """Rows: sinks, recent ones, and slack, so many more before the oldest are dropped."""

    sinks: int = 16
    recent: int = 496
    slack: int = 128

    @property
    def most(self) -> int:
        return self.sinks + self.recent + self.slack


def turned(keys: torch.Tensor, by: int, frequencies: torch.Tensor) -> torch.Tensor:
    """keys[..., dim] as RoPE would have them `by` positions later; frequencies: fp32[dim/2]."""
    angles = (by * frequencies.double()).to(keys.device)
    cos, sin = angles.cos().to(keys.dtype), angles.sin().to(keys.dtype)
    low, high = keys.chunk(2, -1)
    return torch.cat((low * cos - high * sin, high * cos + low * sin), -1)


class Sliding(Committed):
    """A cache of few rows, whose committed tokens may be many. Implements KVCache but for where rows lie.

    Truncated behind what it still holds of the recent ones it starts anew: its engine evaluates everything again.
    """

    frequencies: torch.Tensor
    sight: Sight
    layers: int
    _held = 0
    _sinks: list[torch.Tensor]  # keys of the first rows as they came, a layer each, once there is a gap

    @property
    def held(self) -> int:
        return self._held

    def rebase(self, path: Sequence[int], survivors: Sequence[int] = ()) -> dict[int, int]:
        remap = super().rebase(path, survivors)
        self._held += len(path)
        if self._held > self.sight.most:
            self._slide(len(survivors))
        return remap

    def truncate(self, length: int) -> int:
        lost = self.length - min(length, self.length)
        if self.start and self._held - lost <= self.sight.sinks:
            lost = self.length
        held = self._held - lost if lost < self.length else 0
        kept = super().truncate(self.length - lost)
        self._held = held
        self._stand(kept - held)
        return kept

    def view(self, kind: str) -> KVCache:
        raise WrongUsage(f'a KV cache that forgets has no view "{kind}".', hint="--draft-kv full")

    def leap(self, tokens: Sequence[int]) -> int:
        unseen = len(tokens) - self.sight.recent
        if unseen <= 0 or self._held < self.sight.sinks:
            return 0
        self._tokens += tokens[:unseen]
        self._close_up(self.sight.sinks)
        return unseen

    def _slide(self, survivors: int) -> None:
        """Drops the oldest of the recent rows."""
        sinks, recent = self.sight.sinks, self.sight.recent
        self._move(sinks, range(self._held - recent, self._held + survivors))
        self._close_up(sinks + recent)

    def _keep_sinks(self) -> None:
        if not self.start:
            self._sinks = [self._first_keys(layer) for layer in range(self.layers)]

    def _close_up(self, held: int) -> None:
        """So many rows are left: the sinks move up to the others."""
        self._keep_sinks()
        self._held = held
        self._stand(self.length - held)
        for layer, keys in enumerate(self._sinks):
            self._put_first_keys(layer, turned(keys, self.start, self.frequencies))

    def _stand(self, start: int) -> None:
        """The first row is to be at position `start`."""
        self.start = start

    @abstractmethod
    def _first_keys(self, layer: int) -> torch.Tensor:
        """[kv_heads, sinks, dim]: a copy of the first rows' keys."""

    @abstractmethod
    def _put_first_keys(self, layer: int, keys: torch.Tensor) -> None:
        """Puts others in their place."""


class BlockWindow(Sliding, BlockCache):
    """frequencies: fp32[head_dim/2], of the model's RoPE."""

    def __init__(
        self, layers: int, kv_heads: int, head_dim: int, frequencies: torch.Tensor, sight: Sight | None = None
    ) -> None:
        super().__init__(layers, kv_heads, head_dim)
        self.frequencies, self.sight, self._sinks = frequencies, sight or Sight(), []

    @property
    def nbytes(self) -> int:
        return super().nbytes + sum(keys.nbytes for keys in self._sinks)

    def _stand(self, start: int) -> None:
        super()._stand(start)
        self.describe()

    def _first_keys(self, layer: int) -> torch.Tensor:
        return attention.taken_keys(self._kv[layer][0], self.sight.sinks)[..., : self.head_dim]

    def _put_first_keys(self, layer: int, keys: torch.Tensor) -> None:
        attention.place_keys(self._kv[layer][0], keys, 0)


class DenseWindow(Sliding, DenseCache):
    """The same in plain torch."""

    def __init__(self, layers: int, frequencies: torch.Tensor, sight: Sight | None = None) -> None:
        super().__init__(layers)
        self.frequencies, self.sight, self._sinks = frequencies, sight or Sight(), []

    @property
    def nbytes(self) -> int:
        return super().nbytes + sum(keys.nbytes for keys in self._sinks)

    def _first_keys(self, layer: int) -> torch.Tensor:
        return self._buffer(layer)[0, :, : self.sight.sinks].clone()

    def _put_first_keys(self, layer: int, keys: torch.Tensor) -> None:
        self._buffer(layer)[0, :, : self.sight.sinks] = keys

    def _buffer(self, layer: int) -> torch.Tensor:
        kv = self._kv[layer]
        assert kv is not None
        return kv
