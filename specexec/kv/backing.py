"""Committed rows that lie where attention cannot read them: whole blocks, of which a layer's come ahead of their use.

What was committed last stays, as the tree's rows do: these are never elsewhere.   TriForce's offloaded cache, Sun et al. 2024
"""

from abc import abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Protocol

import torch

from specexec.kv.committed import Committed

BLOCK = 64  # rows that leave together, or several times as many
KEPT, STEP = 256, 128  # committed rows that stay, and how many more there are before some leave


class Backing(Protocol):
    """Holds the first `rows` rows of every layer, as bytes: strips, each in order of rows. waited: seconds, for a layer.

    Its methods raise what their memory or disk fails with, and hold then what they held before.
    """

    @property
    def rows(self) -> int: ...

    @property
    def nbytes(self) -> int:
        """Of memory, on the device where there is one."""

    @property
    def waited(self) -> float: ...

    def layer(self, index: int) -> AbstractContextManager[torch.Tensor]:
        """uint8[strips, bytes of all rows there may be], which begin with the layer's. The others may be written inside."""

    def put(self, count: int, layers: Iterator[torch.Tensor]) -> None:
        """`count` rows more, of each layer uint8[strips, bytes], whole blocks."""

    def cut(self, rows: int) -> None:
        """No more than so many are to be held."""


MakeBacking = Callable[[int, int, int, int], Backing]
"""Makes one of so many layers, strips a layer, rows a strip and bytes a row."""


class Offloaded(Committed):
    """The bookkeeping of a cache over a Backing. `held` are the committed rows that stay, which its own buffers begin with."""

    backing: Backing
    layers: int

    @property
    def held(self) -> int:
        return self.length - self.backing.rows

    @property
    def waited(self) -> float:
        return self.backing.waited

    def truncate(self, length: int) -> int:
        """Rows that are elsewhere are kept by whole blocks."""
        kept = super().truncate(length if length >= self.backing.rows else length // BLOCK * BLOCK)
        self.backing.cut(kept)
        return kept

    def reset(self, start: int) -> None:
        raise NotImplementedError("its rows are never a view's tail")

    @abstractmethod
    def _bytes(self, layer: int, count: int) -> torch.Tensor:
        """uint8[strips, bytes]: a copy of the first rows of its own buffers."""

    def _make_way(self) -> None:
        """Committed rows beyond those that stay leave. Where that fails nothing has changed."""
        count = (self.held - KEPT) // BLOCK * BLOCK
        if count >= STEP:
            self.backing.put(count, (self._bytes(layer, count) for layer in range(self.layers)))
            self._move(0, range(count, count + self.held + len(self._branches)))
