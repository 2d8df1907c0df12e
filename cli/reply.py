"""An answer as it is shown: thoughts dim on stderr where a person sits, or between their marks; all else on a page."""

import sys

import click

from cli.color import coloured
from cli.page import CONTROL, Page
from specexec.thoughts import CLOSE, OPEN, Piece, Thoughts


class Reply:
    """within: the prompt has opened the thoughts. hidden: they are not shown to anybody."""

    def __init__(self, page: Page, within: bool = False, hidden: bool = False) -> None:
        self._page, self._thoughts = page, Thoughts(within)
        self._thinks = sys.stderr.isatty() and not hidden
        self._line_ended, self._marked = True, False  # of the thoughts

    def add(self, text: str) -> None:
        for piece in self._thoughts.take(text):
            self._show(piece)

    def end(self) -> None:
        for piece in self._thoughts.close():
            self._show(piece)
        self._end_thoughts()
        self._page.end()

    def _show(self, piece: Piece) -> None:
        if not piece.thought:
            self._end_thoughts()
            self._page.add(piece.text)
        elif self._thinks:
            self._think(piece.text.translate(CONTROL))

    def _think(self, text: str) -> None:
        """Where there is no colour, the model's own marks tell thoughts from the answer."""
        if not coloured(sys.stderr) and not self._marked:
            click.echo(OPEN, err=True)
            self._marked = True
        click.echo(click.style(text, dim=True) if coloured(sys.stderr) else text, nl=False, err=True)
        self._line_ended = text.endswith("\n")

    def _end_thoughts(self) -> None:
        if not self._line_ended:
            click.echo(err=True)
            self._line_ended = True
        if self._marked:
            click.echo(CLOSE, err=True)
            self._marked = False
