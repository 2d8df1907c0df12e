"""What a reasoning model thinks before it answers: the text between two marks, told apart while it streams."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

OPEN, CLOSE = "<think>", "</think>"


class Piece(NamedTuple):
    thought: bool
    text: str


def opened(prompt: str) -> bool:
    """Whether a prompt ends within thoughts: some templates write the opening mark themselves."""
    return prompt.rstrip().endswith(OPEN)


def visible(answer: str) -> str:
    """An answer without its thoughts and the blanks around it."""
    return answer.rpartition(CLOSE)[2].strip()


class Thoughts:
    """Splits an answer's text as it comes. within: its prompt has opened them. A part of a mark waits for the rest.

    Thoughts stand at the beginning of an answer or nowhere: a mark that it speaks of later is text.
    """

    def __init__(self, within: bool = False) -> None:
        self._next: Callable[[], Iterator[Piece]] = self._thinking if within else self._beginning
        self._held = ""

    def take(self, text: str) -> Iterator[Piece]:
        """What can be shown now."""
        self._held += text
        before: Callable[[], Iterator[Piece]] | None = None
        while before != self._next:
            before = self._next
            yield from self._next()

    def close(self) -> Iterator[Piece]:
        """The end of the answer: what was held back."""
        if self._held and self._next != self._between:
            yield Piece(self._next == self._thinking, self._held)
        self._held = ""

    def _beginning(self) -> Iterator[Piece]:
        start = self._held.lstrip()
        if start.startswith(OPEN):
            self._held, self._next = start.removeprefix(OPEN), self._thinking
        elif not OPEN.startswith(start):
            self._next = self._answering
        yield from ()

    def _thinking(self) -> Iterator[Piece]:
        thought, mark, rest = self._held.partition(CLOSE)
        if mark:
            self._next = self._between
        else:
            waits = next((n for n in range(len(CLOSE) - 1, 0, -1) if thought.endswith(CLOSE[:n])), 0)
            thought, rest = thought[: len(thought) - waits], thought[len(thought) - waits :]
        self._held = rest
        if thought:
            yield Piece(True, thought)

    def _between(self) -> Iterator[Piece]:
        self._held = self._held.lstrip()
        if self._held:
            self._next = self._answering
        yield from ()

    def _answering(self) -> Iterator[Piece]:
        text, self._held = self._held, ""
        if text:
            yield Piece(False, text)
