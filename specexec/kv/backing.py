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
PAGE = 4096  # bytes; on a disk what leaves together is whole pages


class Backing(Protocol):
    """Holds the first `rows` rows of every layer, as bytes: strips, each in order of rows, of `row` bytes. waited: seconds, for
    a layer. A row is a position's, or that of a group of positions.

    Its methods raise what their memory or disk fails with, and hold then what they held before.
    """

    @property
    def rows(self) -> int: ...

    @property
    def row(self) -> int: ...

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
    """A cache over a Backing. `away`: its committed rows that are elsewhere, the first ones."""

    backing: Backing
    layers: int

    @property
    @abstractmethod
    def away(self) -> int: ...

    @property
    def nbytes(self) -> int:
        """Adds to what the cache beside this class takes."""
        return super().nbytes + self.backing.nbytes  # type: ignore[safe-super]

    @property
    def waited(self) -> float:
        return self.backing.waited

    def reset(self, start: int) -> None:
        raise NotImplementedError("its rows are never a view's tail")

    @abstractmethod
    def _make_way(self) -> None:
        """What is committed beyond what stays leaves. Where that fails nothing has changed."""


class OffloadedRows(Offloaded):
    """The bookkeeping of rows as they came. `held` are the committed ones that stay, which its own buffers begin with."""

    @property
    def away(self) -> int:
        return self.backing.rows

    @property
    def held(self) -> int:
        return self.length - self.away

    def truncate(self, length: int) -> int:
        """Rows that are elsewhere are kept by whole blocks."""
        kept = super().truncate(length if length >= self.away else length // BLOCK * BLOCK)
        self.backing.cut(kept)
        return kept

    @abstractmethod
    def _bytes(self, layer: int, count: int) -> torch.Tensor:
        """uint8[strips, bytes]: a copy of the first rows of its own buffers."""

    def _make_way(self) -> None:
        count = (self.held - KEPT) // BLOCK * BLOCK
        if count >= STEP:
            self.backing.put(count, (self._bytes(layer, count) for layer in range(self.layers)))
            self._move(0, range(count, count + self.held + len(self._branches)))
