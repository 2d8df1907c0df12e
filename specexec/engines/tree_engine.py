"""What every engine over a KV cache does: settle it, evaluate what is missing with the tree, read logits in blocks."""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import torch

from specexec.errors import ContextFull
from specexec.kv.cache import TreeCache
from specexec.roles import Limits, Reader
from specexec.tree import ROOT, DraftTree

READER_ROWS = 64
READER_BYTES = 2**23  # larger temporaries are mapped and faulted in anew each time: up to 10 times slower, measured
LARGEST_TREE = 2048


def rows_read(vocabulary: int) -> int:
    """Rows of logits that a reader is handed at a time."""
    return max(1, min(READER_ROWS, READER_BYTES // (4 * vocabulary)))


class TreeEngine(ABC):
    """Implements Target but for the arithmetic.

    rounding: logits closer than this may trade places when the shape of the passes changes.
    passes: forwards of the whole model so far, each of which streams every weight once.
    """

    cache: TreeCache

    def __init__(self, cache: TreeCache, limits: Limits, rounding: float, device: torch.device) -> None:
        self.cache, self._limits, self.rounding, self.device = cache, limits, rounding, device
        self.passes = 0
        self._tokens: list[int] = []

    @abstractmethod
    def _states(self, tokens: Sequence[int], parents: Sequence[int], root: int | None) -> torch.Tensor:
        """[n, ...]: what `_logits` reads of rows `root` to the last; none is read where root is None.

        parents: of all rows of the cache's tree, whose last ones these tokens become. root: which of them is the tree's first.
        """

    @abstractmethod
    def _logits(self, states: torch.Tensor) -> torch.Tensor:
        """fp32[k, vocabulary] of k rows of states."""

    @property
    def limits(self) -> Limits:
        return self._limits

    @property
    def waited(self) -> float:
        return 0.0

    @property
    def missing(self) -> int:
        kept = self.cache.alike(self._tokens)
        left = self._tokens[kept:]
        return len(left) - (len(self.cache.branches.walk(left)) if kept == self.cache.length else 0)

    def sync(self, tokens: Sequence[int]) -> None:
        self._tokens = list(tokens)

    def settle(self) -> None:
        """Commits what of the synced tokens is evaluated already; of the last tree what hangs below them stays."""
        if path := self._walked():
            self.cache.rebase(path, self.cache.branches.below(path[-1]))

    def forward(self, tree: DraftTree, reader: Reader, first: int = 0) -> None:
        self._check_room(tree)
        self._settle(tree, first)
        most = max(self.limits.tree, self.limits.chunk)
        while len(missing := self._tokens[self.cache.length :]) > most:
            chunk = missing[:most]
            self._evaluate(chunk, range(ROOT, len(chunk) - 1))
            self.cache.rebase(range(len(chunk)))
            self.cache.leap(missing[len(chunk) :])
        above = len(missing) - 1  # the row above node 0
        parents = [above if p == ROOT else p + len(missing) for p in tree.parents[first:]]
        states = self._evaluate([*missing, *tree.tokens[first:]], [*range(ROOT, above), *parents], len(missing))
        self._read(states, reader, first)

    def extend(self, token: int, pick: Callable[[torch.Tensor], int | None], seconds: float) -> None:
        until, picked = time.perf_counter() + seconds, list[int | None]()
        self.forward(DraftTree((token,)), lambda _, logits: picked.append(pick(logits)))
        following = picked[0]
        if following is None or time.perf_counter() > until:
            return
        self.cache.rebase(range(len(self.cache.branches)))  # a cache may have lost more than it seemed to `missing`
        while following is not None and time.perf_counter() <= until and self.cache.length < self.limits.context:
            following = pick(self._extended(following))

    def _extended(self, token: int) -> torch.Tensor:
        """fp32[1, vocabulary] of one more committed token; there is no tree."""
        logits = self._logits(self._evaluate([token], [ROOT], 0))
        self.cache.rebase([0])
        return logits

    def _check_room(self, tree: DraftTree) -> None:
        if len(self._tokens) + len(tree) <= self.limits.context:
            return  # however deep it is
        if (deepest := len(self._tokens) + max(tree.depth)) >= self.limits.context:
            raise ContextFull(f"position {deepest:,} is asked for, the context is {self.limits.context:,}.",
                              hint="a shorter prompt, or a larger --ctx-size")

    def _settle(self, tree: DraftTree, first: int) -> None:
        """Makes the cache hold a prefix of the tokens, as long as it can be, and of the tree its first nodes."""
        path = self._walked()
        if first and len(path) < len(self._tokens) - self.cache.length:
            raise ValueError("nodes before `first` cannot have been evaluated: tokens above node 0 are missing")
        if path or not self._lies(tree, first):
            self.cache.rebase(path, self._survivors(tree, first, path[-1] if path else ROOT))

    def _lies(self, tree: DraftTree, first: int) -> bool:
        """Whether the tree's first nodes are the cache's tree as it is: so a tree grows pass by pass."""
        there = self.cache.branches
        return there.tokens == tree.tokens[:first] and there.parents == tree.parents[:first]

    def _walked(self) -> list[int]:
        """The rows of the tree that hold what the committed ones, cut where they hold something else, lack."""
        kept = self.cache.alike(self._tokens)
        if kept < self.cache.length:
            self.cache.truncate(kept)
        return self.cache.branches.walk(self._tokens[self.cache.length :])

    def _survivors(self, tree: DraftTree, first: int, end: int) -> list[int]:
        rows: list[int] = []
        for token, parent in zip(tree.tokens[:first], tree.parents[:first], strict=True):
            row = self.cache.branches.child(end if parent == ROOT else rows[parent], token)
            if row is None:
                raise ValueError("nodes before `first` were not evaluated by an earlier call")
            rows.append(row)
        return rows

    def _evaluate(self, tokens: Sequence[int], parents: Sequence[int], root: int | None = None) -> torch.Tensor:
        """As `_states`; the rows join the cache's tree. parents: rows of that tree, or ROOT."""
        states = self._states(tokens, [*self.cache.branches.parents, *parents], root)
        self.cache.admit(tokens, parents)
        self.passes += 1
        return states

    def _read(self, states: torch.Tensor, reader: Reader, first: int) -> None:
        rows = rows_read(self.limits.vocabulary)
        for start in range(0, states.shape[0], rows):
            block = states[start : start + rows] if states.shape[0] > rows else states
            reader(first + start, self._logits(block))
