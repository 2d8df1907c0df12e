"""Quantised keys and values whose groups are elsewhere, a group a row of the backing; rows as they came stay.

A pass sees a layer's groups in a buffer of the backing, where those that stayed stand behind those that came. How groups are
made and read is the business of the cache beside this class.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from specexec.errors import WrongUsage
from specexec.kernels.hierarchical import GROUP
from specexec.kv import backing
from specexec.kv.backing import Offloaded
from specexec.kv.cache import KVCache
from specexec.kv.quantised import Codes, Quantised


def staying(rows: int) -> int:
    """Groups that there is to be room for beside those that are elsewhere. rows: of the largest pass."""
    return backing.KEPT // GROUP - (-rows // GROUP)


class OffloadedGroups(Offloaded, Quantised[Codes]):
    """The bookkeeping. `groups` are the last ones alone: those that cover the rows that are committed last."""

    @property
    def away(self) -> int:
        return self.backing.rows * GROUP

    @contextmanager
    def codes(self, layer: int, rows: torch.Tensor | None = None) -> Iterator[Codes]:
        """The backing is asked where something of it is read."""
        own = self.groups[layer]
        if not own.first or (rows is not None and bool((rows >= self.away).all())):
            yield own
            return
        with self.backing.layer(layer) as held:
            whole = own.over(held.view(-1, self.backing.row), 0)
            whole.records[own.first : self.made] = own.records[: self.made - own.first]
            yield whole

    def _make_way(self) -> None:
        kept = backing.KEPT // GROUP
        count = self.made - self.backing.rows - kept
        if count > 0:
            self.backing.put(count, (groups.records[:count].view(1, -1) for groups in self.groups))
            for groups in self.groups:
                groups.records[:kept] = groups.records[count : count + kept].clone()
            self._changed()

    def _changed(self) -> None:
        self.backing.cut(self.made)
        self.groups = [groups.over(groups.records, self.backing.rows) for groups in self.groups]
        super()._changed()  # type: ignore[safe-super]

    def _upper(self) -> KVCache:
        raise WrongUsage("a view of all of a KV cache that is elsewhere reads it again for each guess.",
                         hint="--draft-kv retrieval, or window")
