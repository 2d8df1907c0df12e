"""Markdown as it is written: blocks that are whole are never touched again, the last one's rows change where they must."""

import shutil
import sys
import time
from collections.abc import Sequence
from typing import ClassVar

from markdown_it import MarkdownIt
from rich.console import Console, ConsoleOptions, RenderResult
from rich.markdown import CodeBlock, Heading, Markdown
from rich.syntax import Syntax
from rich.text import Text

from cli.color import moves
from cli.page import CONTROL, write

PARSER = MarkdownIt("commonmark", {"html": False}).enable("strikethrough").enable("table")  # tags are text: none may vanish
SHARE = 4  # of the time, at most one part in so many is spent on drawing


class _Heading(Heading):
    LEVEL_ALIGN = dict.fromkeys(Heading.LEVEL_ALIGN, "left")


class _Code(CodeBlock):
    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        code = str(self.text).rstrip()
        yield Syntax(code, self.lexer_name, theme="ansi_dark", word_wrap=True, padding=(0, 2), background_color="default")


class _Markdown(Markdown):
    """Ends of lines are kept: models mean them."""

    elements: ClassVar = {**Markdown.elements, "heading_open": _Heading, "fence": _Code, "code_block": _Code}

    def __init__(self, text: str) -> None:
        super().__init__(text, hyperlinks=False)
        self.parsed = PARSER.parse(text)
        for token in self.parsed:
            for child in token.children or ():
                if child.type == "softbreak":
                    child.type = "hardbreak"


class MarkdownPage:
    """Implements Page. On a terminal the unfinished block is shown as it grows; elsewhere blocks come when they are whole."""

    def __init__(self) -> None:
        self._live = moves(sys.stdout)
        self._text = ""  # that is not finished
        self._rows: list[str] = []  # of it, as they stand there; the cursor is at the end of the last
        self._gone = 0  # rows above those, which scrolled away
        self._began = False
        self._size = shutil.get_terminal_size()
        self._next = 0.0  # when it may be drawn again

    def add(self, text: str) -> None:
        self._text += text.translate(CONTROL)
        while self._finished():
            pass
        if self._live and time.monotonic() >= self._next:
            began = time.monotonic()
            self._draw(self._text)
            self._next = time.monotonic() + SHARE * (time.monotonic() - began)

    def end(self) -> None:
        self._finish(self._text)
        write("" if self._began else "\n")

    def _finished(self) -> bool:
        """Takes the first block off the text, where another follows it."""
        starts = [token.map[0] for token in PARSER.parse(self._text) if token.level == 0 and token.map and token.nesting >= 0]
        if len(starts) < 2:
            return False
        lines = self._text.split("\n")
        self._finish("\n".join(lines[: starts[1]]))
        self._text = "\n".join(lines[starts[1] :])
        return True

    def _finish(self, block: str) -> None:
        self._draw(block)
        if self._rows or self._gone:
            write("\n")
        self._rows, self._gone = [], 0

    def _draw(self, block: str) -> None:
        """Writes the rows that are new or other than those that stand there."""
        size = shutil.get_terminal_size()
        resized = size.columns != self._size.columns
        rows = _rows(block, size.columns)[self._gone :]
        if rows and (rows != self._rows or resized):
            if not self._rows and not self._gone and self._began:
                write("\n")  # between two blocks
            same = 0 if resized else min(_same(self._rows, rows), len(rows) - 1)
            write(self._above(same, size.columns) + "\n".join(rows[same:]))
            scrolled = max(0, len(rows) - size.lines + 1)
            self._size, self._rows, self._gone, self._began = size, rows[scrolled:], self._gone + scrolled, True

    def _above(self, row: int, columns: int) -> str:
        """Goes from the end of the last row to the beginning of `row`, and clears what is there; narrower rows were broken."""
        if not self._rows:
            return ""
        if row == len(self._rows):
            return "\n"
        broken = sum(max(1, -(-Text.from_ansi(text).cell_len // columns)) for text in self._rows[row:])
        up = min(broken, shutil.get_terminal_size().lines) - 1
        return f"\r\x1b[{up}A\x1b[J" if up else "\r\x1b[J"


def _same(old: Sequence[str], new: Sequence[str]) -> int:
    """How many rows of the beginning are."""
    differ = (i for i, (a, b) in enumerate(zip(old, new, strict=False)) if a != b)
    return next(differ, min(len(old), len(new)))


def _rows(block: str, columns: int) -> list[str]:
    """Of the block, without blank ones above and below."""
    console = Console(file=sys.stdout, force_terminal=True, width=max(columns - 1, 8), legacy_windows=False)
    with console.capture() as drawn:
        console.print(_Markdown(block))
    rows = [row.rstrip() for row in drawn.get().split("\n")]
    inked = [i for i, row in enumerate(rows) if Text.from_ansi(row).plain.strip()]
    return rows[inked[0] : inked[-1] + 1] if inked else []
