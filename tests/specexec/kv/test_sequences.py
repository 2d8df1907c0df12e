"""Sequences over a memory of sets: whatever is evaluated, committed and cut, a row sees its own path and nothing else."""

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from specexec.kv.sequences import MOST, Sequences
from specexec.tree import ROOT


class Cells:
    """Implements Memory as llama.cpp does: a cell is a position, and the sequences it belongs to."""

    nbytes = 0

    def __init__(self) -> None:
        self.cells: list[tuple[int, object, set[int]]] = []  # position, what it holds, sequences

    def copy(self, source: int, sequence: int, start: int, end: int) -> None:
        for position, _, of in self.cells:
            if start <= position < end and source in of:
                of.add(sequence)

    def cut(self, sequence: int, start: int) -> None:
        for position, _, of in self.cells:
            if position >= start:
                of.discard(sequence)
        self.cells = [cell for cell in self.cells if cell[2]]

    def seen(self, sequence: int, position: int) -> list[object]:
        """What a query at `position` of `sequence` attends, which must be one cell a position."""
        found = {at: held for at, held, of in self.cells if sequence in of and at <= position}
        assert sorted(found) == list(range(position + 1))
        assert sum(sequence in of and at <= position for at, _, of in self.cells) == len(found)
        return [found[at] for at in sorted(found)]

    def move(self, sequence: int, start: int) -> None:
        assert all(of == {sequence} and at >= start for at, _, of in self.cells if sequence in of)
        moved = sorted((cell for cell in self.cells if sequence in cell[2]), key=lambda cell: cell[0])
        self.cells = [cell for cell in self.cells if sequence not in cell[2]] + moved

    def last(self, sequence: int) -> int:
        return max((at for at, _, of in self.cells if sequence in of), default=-1)


def evaluate(cache: Sequences, memory: Cells, new: Sequence[tuple[int, int]]) -> None:
    """new: (token, parent row) each. Checks what llama.cpp asks of a batch, and what each row sees."""
    first, parents = len(cache.branches), [*cache.branches.parents, *(parent for _, parent in new)]
    rows, texts = cache.begin(parents), list[list[int]]()
    begun = set[int]()
    tokens = [*cache.branches.tokens, *(token for token, _ in new)]
    for row, parent in enumerate(parents):
        texts.append([*(texts[parent] if parent != ROOT else cache.tokens), tokens[row]])
    for row, of in enumerate(rows, first):
        position = len(texts[row]) - 1
        assert of
        for sequence in of:
            assert sequence in begun or memory.last(sequence) == position - 1, "a batch goes on where a sequence ends"
        begun.update(of)
        memory.cells.append((position, tokens[row], set(of)))
    for row, of in enumerate(rows, first):
        assert all(memory.seen(sequence, len(texts[row]) - 1) == texts[row] for sequence in of)
    cache.admit([token for token, _ in new], [parent for _, parent in new])


numbers = st.lists(st.integers(0, 10**6), min_size=1, max_size=12)
steps = st.lists(st.tuples(st.sampled_from(["grow", "commit", "keep", "truncate", "forget"]), numbers), max_size=12)


@given(steps)
def test_a_row_sees_its_own_path_alone(script: list[tuple[str, list[int]]]) -> None:
    memory = Cells()
    cache = Sequences(memory)
    for what, given_ in script:
        n = len(cache.branches)
        if what == "grow":
            new, taken = list[tuple[int, int]](), set(zip(cache.branches.tokens, cache.branches.parents, strict=True))
            for number in given_:
                parent = number % (n + len(new) + 1) - 1
                if (number, parent) not in taken:
                    taken.add((number, parent))
                    new.append((number, parent))
            evaluate(cache, memory, new)
        elif what == "truncate":
            assert cache.truncate(given_[0] % (cache.length + 2)) == cache.length
        elif what == "forget":
            cache.begin([*cache.branches.parents, ROOT, n, n, n + 1])
            cache.forget()
        elif n:
            path = [given_[0] % n]
            while (above := cache.branches.parents[path[0]]) != ROOT:
                path.insert(0, above)
            below = [row for row in range(n) if row not in path and _hangs(cache, row, path[-1])]
            cache.rebase(path, below if what == "keep" else ())
        _check(cache, memory)


def _hangs(cache: Sequences, row: int, end: int) -> bool:
    while row not in (ROOT, end):
        row = cache.branches.parents[row]
    return row == end


def _check(cache: Sequences, memory: Cells) -> None:
    """Nothing is left of what was dropped, and every committed row is in its place."""
    assert len(memory.cells) == cache.length + len(cache.branches)
    committed = [(at, held) for at, held, _ in memory.cells if at < cache.length]
    assert [held for _, held in sorted(committed)] == list(cache.tokens)
    assert all(0 <= sequence < MOST for _, _, of in memory.cells for sequence in of)


def test_plain_decoding_moves_nothing() -> None:
    memory = Cells()
    cache = Sequences(memory)
    calls = list[object]()
    memory.copy = memory.cut = lambda *given_: calls.append(given_)  # type: ignore[assignment,method-assign]
    for token in range(20):
        evaluate(cache, memory, [(token, ROOT)])
        cache.rebase([0])
    assert calls == []
