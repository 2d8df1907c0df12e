"""The contract of every KV cache: committed rows in any format, and the rows of one tree in full precision."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import torch

from specexec.tree import ROOT, Children, children_of


@dataclass(frozen=True)
class Rows:
    """The rows of one attend call: the last n of the tree's t rows so far.

    positions: int64[n]. visible: bool[n, t], a row's ancestors and itself within its window. first_visible: int64[n], the first
    position its window reaches: 0, or position + 1 - window. parents: of all t rows.
    root: which of the n is the tree's first, node 0 or the best of later ones, or None.
    """

    positions: torch.Tensor
    visible: torch.Tensor
    first_visible: torch.Tensor
    parents: Sequence[int]
    root: int | None = None

    @cached_property
    def windowed(self) -> bool:
        return bool((self.first_visible > 0).any())

    @cached_property
    def bias(self) -> torch.Tensor:
        """fp32[n, t]: 0 where visible, -inf elsewhere."""
        return torch.zeros(self.visible.shape, device=self.visible.device).masked_fill_(~self.visible, -torch.inf)

    def prefix_bias(self, start: int, length: int) -> torch.Tensor:
        """fp32[n, length] for keys at positions start.."""
        keys = torch.arange(start, start + length, device=self.first_visible.device)
        hidden = keys < self.first_visible[:, None]
        return torch.zeros(hidden.shape, device=hidden.device).masked_fill_(hidden, -torch.inf)


@dataclass(frozen=True)
class Branches:
    """The uncommitted rows: tokens, and parents among the rows (ROOT: the end of the committed ones)."""

    tokens: tuple[int, ...] = ()
    parents: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.tokens)

    @cached_property
    def _links(self) -> tuple[dict[int, int], Children]:
        return children_of(self.tokens, self.parents)

    def child(self, row: int, token: int) -> int | None:
        """The row below `row` (or below the committed end, for ROOT) that holds `token`."""
        roots, children = self._links
        return (roots if row == ROOT else children[row]).get(token)

    def walk(self, tokens: Sequence[int]) -> list[int]:
        """The rows of the longest prefix of `tokens` that lies below the committed end."""
        path: list[int] = []
        for row, (token, parent) in enumerate(zip(self.tokens, self.parents, strict=True)):
            if len(path) == len(tokens):
                break
            if token == tokens[len(path)] and parent == (path[-1] if path else ROOT):
                path.append(row)
        return path

    def below(self, row: int) -> list[int]:
        """The rows that hang below `row`."""
        found = {row}
        for at, parent in enumerate(self.parents):
            if parent in found:
                found.add(at)
        return sorted(found - {row})

    def extended(self, tokens: Sequence[int], parents: Sequence[int]) -> "Branches":
        return Branches((*self.tokens, *tokens), (*self.parents, *parents))

    def rebased(self, path: Sequence[int], survivors: Sequence[int]) -> tuple["Branches", dict[int, int]]:
        """(the survivors' branches, {old row: new row}). Raises ValueError where path or survivors do not hang together."""
        end = ROOT
        for row in path:
            if not 0 <= row < len(self.parents) or self.parents[row] != end:
                raise ValueError(f"{list(path)} is not a path from the committed end")
            end = row
        remap, parents = {end: ROOT}, list[int]()
        for new, row in enumerate(survivors):
            if row in remap or not 0 <= row < len(self.parents) or self.parents[row] not in remap:
                raise ValueError(f"row {row} does not hang below the path's end, or comes twice or before its parent")
            parents.append(remap[self.parents[row]])
            remap[row] = new
        del remap[end]
        return Branches(tuple([self.tokens[row] for row in survivors]), tuple(parents)), remap


class TreeCache(Protocol):
    """Which tokens and which tree lie in a cache is the cache's own state: engines may share one.

    After an exception in one of its methods it is as before the call. Speculative rows are never quantised or evicted.
    """

    @property
    def tokens(self) -> Sequence[int]:
        """The committed token ids."""

    def alike(self, tokens: Sequence[int]) -> int:
        """How many of these it begins with. Asked again for the same object, it compares only what was added since."""

    @property
    def branches(self) -> Branches:
        """The rows of the tree evaluated last."""

    @property
    def length(self) -> int:
        """Committed rows."""

    @property
    def nbytes(self) -> int:
        """All it allocated, staging too: the ledger's number."""

    def admit(self, tokens: Sequence[int], parents: Sequence[int]) -> None:
        """The rows that every layer has just attended with join the tree."""

    def rebase(self, path: Sequence[int], survivors: Sequence[int] = ()) -> dict[int, int]:
        """Commits the rows of `path`; `survivors`, below its end, stay as the new tree's rows. Returns {old row: new row}."""

    def leap(self, tokens: Sequence[int]) -> int:
        """Before these tokens are evaluated, and with no tree: commits, without rows, those whose rows nobody would see.

        Returns how many.
        """

    def truncate(self, length: int) -> int:
        """Forgets the tree, and rows from `length` on; returns the length really kept, at most `length`."""


class KVCache(TreeCache, Protocol):
    """One that our own engines attend over."""

    def attend(self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, rows: Rows) -> torch.Tensor:
        """out[heads, n, dim] of scaled q[heads, n, dim] over the committed rows and those of the tree `rows` lets it see.

        k, v[kv_heads, n, dim] become the tree's last n rows. heads is a multiple of kv_heads; nothing is repeated in memory.
        """

    def view(self, kind: str) -> "KVCache":
        """This cache's committed rows and a dense tail of its own; a rebase or truncate of the base drops the tail.

        Raises WrongUsage for a kind this cache does not have; a view has none.
        """
