"""Where an answer's text goes: standard output, as it comes."""

import sys
from typing import Protocol

from cli.reader import ReaderGone

CONTROL = dict.fromkeys((*range(9), *range(11, 32), *range(127, 160)))  # what a terminal would obey, but tabs and ends of lines


class Page(Protocol):
    """An answer on its way to the person."""

    def add(self, text: str) -> None:
        """Shows more of it. Raises ReaderGone."""

    def end(self) -> None:
        """It ends here, and so does its last line."""


class Plain:
    """Implements Page: the text itself. A terminal is spared the characters that it would obey."""

    def __init__(self) -> None:
        self._ended = False
        self._terminal = sys.stdout.isatty()

    def add(self, text: str) -> None:
        write(text.translate(CONTROL) if self._terminal else text)
        self._ended = text.endswith("\n") if text else self._ended

    def end(self) -> None:
        write("" if self._ended else "\n")


def write(text: str) -> None:
    """Text of the answer, at once. Raises ReaderGone, since click takes a BrokenPipeError for a failure."""
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError as error:
        raise ReaderGone from error
