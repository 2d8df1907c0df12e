"""Groups that end within a tree: each path has its own, quantised on their way for those who stand below them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from specexec.kernels.attention import path
from specexec.kernels.hierarchical import GROUP, numbers
from specexec.kv.attention import Partial, attend_part
from specexec.kv.cache import Rows
from specexec.tree import depths

TOGETHER = 16  # groups that are numbers at a time


@dataclass(frozen=True)
class Ending:
    """How a pass sees the rows that no stored group has: committed ones, then the tree's.

    seen: bool[n, rows], those that a query sees as they came. groups: int64[ends, 128], the rows of each group that ends within
    the tree; starts: int64[ends], the positions these begin at; below: bool[n, ends], the queries that see it.
    """

    rows: Rows
    seen: torch.Tensor
    groups: torch.Tensor
    starts: torch.Tensor
    below: torch.Tensor

    def attend(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, bits: int) -> Iterator[Partial]:
        """Parts of the attention of q[heads, n, dim] over k, v[kv_heads, rows, dim]; groups are read in `bits` bits."""
        for at in range(0, len(self.groups), TOGETHER):
            of = slice(at, at + TOGETHER)
            keys, values = (numbers(x[:, self.groups[of]].float(), along, bits).flatten(1, 2).to(x.dtype)
                            for x, along in ((k, 2), (v, 3)))
            yield attend_part(q, keys, values, self._group_bias(of))
        yield attend_part(q, k, v, _bias(self.seen))

    def _group_bias(self, of: slice) -> torch.Tensor:
        positions = self.starts[of, None] + torch.arange(GROUP, device=self.starts.device)
        return _bias((self.below[:, of, None] & (positions >= self.rows.first_visible[:, None, None])).flatten(1))


def ending(rows: Rows, length: int, made: int) -> Ending:
    """Of a pass above `length` committed rows, those of the first `made` groups of which are stored."""
    device, tail = rows.positions.device, length - made * GROUP
    of_tree = torch.tensor([length + depth for depth in depths(rows.parents)], device=device)
    positions = torch.cat((torch.arange(made * GROUP, length, device=device), of_tree))
    first = torch.maximum(rows.positions // GROUP * GROUP, rows.first_visible)[:, None]
    seen = torch.cat((rows.visible.new_ones(len(rows.positions), tail), rows.visible), 1) & (positions >= first)
    below = rows.visible & (rows.positions[:, None] > of_tree) & (of_tree % GROUP == GROUP - 1)
    ends = below.any(0).nonzero().flatten()
    groups = torch.tensor([_group(rows.parents, row, tail) for row in ends.tolist()], dtype=torch.int64, device=device)
    return Ending(rows, seen, groups.view(-1, GROUP), of_tree[ends] + 1 - GROUP, below[:, ends])


def _group(parents: Sequence[int], row: int, tail: int) -> list[int]:
    """The last 128 rows of the tree's path down to `row`, behind `tail` committed ones."""
    return [*range(tail), *path(parents, row, tail)][-GROUP:]


def _bias(seen: torch.Tensor) -> torch.Tensor:
    """fp32: 0 where seen, -inf elsewhere."""
    return torch.zeros(seen.shape, device=seen.device).masked_fill_(~seen, -torch.inf)
