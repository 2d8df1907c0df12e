"""A tree in llama.cpp's unified KV cache, where a cell belongs to sequences: every leaf's path is one of them."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from specexec.kv.cache import Branches
from specexec.kv.grown import Grown
from specexec.prefix import common
from specexec.tree import depths, path

MOST = 256  # sequences of a cell: llama.cpp's own limit


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
    count: of sequences. The last one carries rows from cell to cell, the others are for leaves.
    """

    def __init__(self, memory: Memory, count: int = MOST) -> None:
        super().__init__()
        self.memory, self._mover = memory, count - 1
        self._held = [0] * self._mover  # committed rows that each of the others carries
        self._lines: dict[int, list[int]] = {}  # {sequence: rows of the tree, down to its tip}
        self._coming: dict[int, list[int]] = {}  # the same, with the rows that are being evaluated

    @property
    def nbytes(self) -> int:
        return self.memory.nbytes

    def begin(self, parents: Sequence[int]) -> list[list[int]]:
        """The sequences of each row to be evaluated, made to carry what lies above. parents: of all rows of the tree."""
        first, self._coming = len(self._branches), {sequence: [*line] for sequence, line in self._lines.items()}
        tip_of = {line[-1]: sequence for sequence, line in self._coming.items()}
        for row in range(first, len(parents)):
            sequence = tip_of.pop(parents[row], None)
            if sequence is None:
                above = path(parents, parents[row])
                sequence = self._fresh([one for one in above if one < first])
                self._coming[sequence] = above
            self._coming[sequence].append(row)
            tip_of[row] = sequence
        rows: list[list[int]] = [[] for _ in range(len(parents) - first)]
        for sequence, line in self._coming.items():
            for row in line:
                if row >= first:
                    rows[row - first].append(sequence)
        return rows

    def _fresh(self, above: Sequence[int]) -> int:
        """A sequence of its own for what hangs below the evaluated path `above`: it carries all of that."""
        sequence = source = self._held.index(max(self._held))
        if sequence in self._coming:
            free = [sequence for sequence in range(self._mover) if sequence not in self._coming]
            sequence = max(free, key=self._held.__getitem__)
        if above:
            source = next(one for one, line in self._lines.items() if above[-1] in line)
        if self._held[sequence] < (end := self.length + len(above)):
            self.memory.copy(source, sequence, self._held[sequence], end)
        self._held[sequence] = self.length
        return sequence

    def lone(self) -> tuple[tuple[int]]:
        """What begin() would say of one row below all committed ones, where there is no tree; `append` commits it."""
        whole = self._held.index(self.length)
        self._coming = {whole: []}
        return ((whole,),)

    def append(self, token: int) -> None:
        (whole,) = self._coming
        self._held[whole] += 1
        self._tokens.append(token)
        self._coming = {}

    def admit(self, tokens: Sequence[int], parents: Sequence[int]) -> None:
        super().admit(tokens, parents)
        self._lines = self._coming

    def forget(self) -> None:
        """Drops the tree, and rows that were being evaluated."""
        for sequence in self._coming.keys() | self._lines.keys():
            self.memory.cut(sequence, self.length)
        self._branches, self._lines, self._coming = Branches(), {}, {}

    def rebase(self, path: Sequence[int], survivors: Sequence[int] = ()) -> dict[int, int]:
        branches, remap = self._branches.rebased(path, survivors)
        lines, before = dict[int, list[int]](), self.length
        for sequence, line in self._lines.items():
            stays = common(line, path)
            self._held[sequence] = before + stays
            while len(path) <= stays < len(line) and line[stays] in remap:
                stays += 1
            if stays < len(line):
                self.memory.cut(sequence, before + stays)
            if stays > len(path):
                lines[sequence] = [remap[row] for row in line[len(path) : stays]]
        self._tokens += [self._branches.tokens[row] for row in path]
        self._branches, self._coming = branches, {}
        self._lines = self._distinct(lines) if lines else lines
        if path and path[-1] >= len(path) and not survivors:  # rows that go are among them
            self._order(before + common(path, range(len(path))))
        return remap

    def _order(self, start: int) -> None:
        """Moves the committed rows from `start` on to the lowest cells; there is no tree."""
        whole = self._held.index(self.length)
        self.memory.copy(whole, self._mover, start, self.length)
        for sequence, held in enumerate(self._held):
            if held > start:
                self.memory.cut(sequence, start)
                self._held[sequence] = start
        self.memory.move(self._mover, start)
        self.memory.copy(self._mover, whole, start, self.length)
        self.memory.cut(self._mover, 0)
        self._held[whole] = self.length

    def _distinct(self, lines: Mapping[int, list[int]]) -> dict[int, list[int]]:
        """One sequence a tip, and none for tips above another: the others go back to what is committed."""
        inner = {row for line in lines.values() for row in line[:-1]}
        found = {line[-1]: sequence for sequence, line in lines.items() if line[-1] not in inner}
        for sequence in lines.keys() - set(found.values()):
            self.memory.cut(sequence, self._held[sequence])
        return {sequence: lines[sequence] for sequence in found.values()}

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
