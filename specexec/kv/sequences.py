"""A tree in llama.cpp's unified KV cache, where a cell belongs to sequences: every leaf's path is one of them."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from specexec.kv.cache import Branches
from specexec.kv.grown import Grown
from specexec.prefix import common
from specexec.tree import ROOT, depths

MOST = 256  # sequences of a cell: llama.cpp's own limit
MOVER = MOST - 1  # carries rows from cell to cell; the others are for leaves


class Memory(Protocol):
    """Cells that belong to sequences. Positions end before `end`."""

    def copy(self, source: int, sequence: int, start: int, end: int) -> None:
        """The cells of `source` at positions start..end - 1 belong to `sequence` too; nothing moves."""

    def cut(self, sequence: int, start: int) -> None:
        """The cells at `start` and beyond belong to `sequence` no more; those that belong to none are free."""

    def move(self, sequence: int, start: int) -> None:
        """The cells of `sequence`, none of which is anybody else's or before `start`, move to the lowest that are free."""

    @property
    def nbytes(self) -> int: ...


class Sequences(Grown):
    """Implements TreeCache.

    A sequence carries a prefix of the committed rows, which stays from tree to tree so that only what is new is copied, or all
    of them and a path of the tree down to its tip. Committed rows lie in cells in order of position: llama.cpp's flash
    attention sums in order of cells, passing over those that a row does not see, so that a row's sum is the same in every tree.
    """

    def __init__(self, memory: Memory) -> None:
        super().__init__()
        self.memory = memory
        self._held = [0] * MOVER  # committed rows that each carries
        self._tips: dict[int, int] = {}  # {sequence: row of the tree}
        self._coming: dict[int, int] = {}  # the same, with the rows that are being evaluated

    @property
    def nbytes(self) -> int:
        return self.memory.nbytes

    def begin(self, parents: Sequence[int]) -> list[list[int]]:
        """The sequences of each row to be evaluated, made to carry what lies above. parents: of all rows of the tree."""
        first, paths = len(self._branches), self._paths(self._tips, self._branches.parents)
        self._coming = dict(self._tips)
        tip_of = {row: sequence for sequence, row in self._tips.items()}
        for row in range(first, len(parents)):
            sequence = tip_of.pop(parents[row], None)
            if sequence is None:
                sequence = self._fresh(_above(parents, row, first), paths)
            self._coming[sequence], tip_of[row] = row, sequence
        rows: list[list[int]] = [[] for _ in range(len(parents) - first)]
        for sequence, path in self._paths(self._coming, parents).items():
            for row in path:
                if row >= first:
                    rows[row - first].append(sequence)
        return rows

    def _fresh(self, above: Sequence[int], paths: Mapping[int, Sequence[int]]) -> int:
        """A sequence of its own for what hangs below the evaluated path `above`: it carries all of that."""
        sequence = source = self._held.index(max(self._held))
        if sequence in self._coming:
            free = [sequence for sequence in range(MOVER) if sequence not in self._coming]
            sequence = max(free, key=self._held.__getitem__)
        if above:
            source = next(one for one, path in paths.items() if above[-1] in path)
        if self._held[sequence] < (end := self.length + len(above)):
            self.memory.copy(source, sequence, self._held[sequence], end)
        self._held[sequence] = self.length
        return sequence

    @staticmethod
    def _paths(tips: Mapping[int, int], parents: Sequence[int]) -> dict[int, list[int]]:
        """{sequence: rows from the committed end down to its tip}."""
        return {sequence: [*_above(parents, tip), tip] for sequence, tip in tips.items()}

    def admit(self, tokens: Sequence[int], parents: Sequence[int]) -> None:
        super().admit(tokens, parents)
        self._tips = self._coming

    def forget(self) -> None:
        """Drops the tree, and rows that were being evaluated."""
        for sequence in self._coming.keys() | self._tips.keys():
            self.memory.cut(sequence, self.length)
        self._branches, self._tips, self._coming = Branches(), {}, {}

    def rebase(self, path: Sequence[int], survivors: Sequence[int] = ()) -> dict[int, int]:
        branches, remap = self._branches.rebased(path, survivors)
        kept, tips, before = {*path, *survivors}, dict[int, int](), self.length
        for sequence, line in self._paths(self._tips, self._branches.parents).items():
            stays = sum(row in kept for row in line)
            if stays < len(line):
                self.memory.cut(sequence, before + stays)
            self._held[sequence] = before + common(line, path)
            if stays > len(path):
                tips[sequence] = remap[line[stays - 1]]
        self._tokens += [self._branches.tokens[row] for row in path]
        self._branches, self._coming = branches, {}
        self._tips = self._distinct(tips)
        ordered = common(path, range(len(path)))
        if ordered < len(path) and not survivors:
            self._order(before + ordered)
        return remap

    def _order(self, start: int) -> None:
        """Moves the committed rows from `start` on to the lowest cells; there is no tree."""
        whole = self._held.index(self.length)
        self.memory.copy(whole, MOVER, start, self.length)
        for sequence, held in enumerate(self._held):
            if held > start:
                self.memory.cut(sequence, start)
                self._held[sequence] = start
        self.memory.move(MOVER, start)
        self.memory.copy(MOVER, whole, start, self.length)
        self.memory.cut(MOVER, 0)
        self._held[whole] = self.length

    def _distinct(self, tips: Mapping[int, int]) -> dict[int, int]:
        """One sequence a tip, and none for tips above another: the others go back to what is committed."""
        inner = {row for path in self._paths(tips, self._branches.parents).values() for row in path[:-1]}
        found = {row: sequence for sequence, row in tips.items() if row not in inner}
        for sequence in tips.keys() - set(found.values()):
            self.memory.cut(sequence, self._held[sequence])
        return {sequence: row for row, sequence in found.items()}

    def truncate(self, length: int) -> int:
        self.forget()
        self._cut(length)
        for sequence, held in enumerate(self._held):
            if held > self.length:
                self.memory.cut(sequence, self.length)
                self._held[sequence] = self.length
        return self.length


def positions(length: int, parents: Sequence[int]) -> list[int]:
    """Of all rows of a tree below `length` committed ones."""
    return [length + depth for depth in depths(parents)]


def _above(parents: Sequence[int], row: int, first: int | None = None) -> list[int]:
    """The rows above `row`, from the committed end down; those before `first` alone, where it is given."""
    path: list[int] = []
    while (row := parents[row]) != ROOT:
        if first is None or row < first:
            path.append(row)
    return path[::-1]
