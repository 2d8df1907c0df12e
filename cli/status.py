"""How far a long pass is, in one dim line below the text, on a terminal alone; gone before anything else is written.

Of a prompt that several passes read, a last line stays: what was read, and how long that took.
"""

import shutil
import sys
import time
from collections.abc import Iterable, Iterator

import click

from cli.color import coloured, moves
from cli.progress import bar, duration
from cli.render import note
from cli.session import Generation, Session

LONG = 1.0  # seconds of a pass that is worth a line
OFTEN = 0.1
BELOW = "\x1bD\x1b[A\x1b7\x1b[B\r"  # makes room for a line below the cursor's, and goes there
BACK, CLEAR = "\x1b8", "\x1b[J"


def shows(quiet: bool) -> bool:
    """Whether there is a place for the line: a terminal that nobody else, as a pager does, writes to."""
    return moves(sys.stderr) and sys.stdout.isatty() and not quiet


class Status:
    """Beats before each layer of the target (pulse.py)."""

    def __init__(self, session: Session, made: Generation) -> None:
        self._target, self._made = session.target, made
        self._layers = session.layers
        self._first = self._pass = self._target.passes
        self._start = self._began = time.monotonic()  # of the answer, and of this pass
        self._done = 0  # layers of it
        self._took = self._drawn = 0.0  # the pass before; when the line was drawn last
        self._missing: int | None = None
        self._shown = self._reading = False

    def beat(self) -> None:
        now = time.monotonic()
        if self._missing is None:
            self._missing = self._target.missing
        if self._pass != self._target.passes:
            self._pass, self._done = self._target.passes, 0
            self._took, self._began = now - self._began, now
        if max(now - self._began, self._took) > LONG and now - self._drawn > OFTEN:
            self._drawn = now
            self._draw(self._line(now))
        self._done += 1

    def cleared(self, texts: Iterable[str]) -> Iterator[str]:
        """The same texts, each when the line is gone."""
        try:
            for text in texts:
                if text:
                    self.clear()
                    self._tell()
                yield text
        finally:
            self.clear()

    def _tell(self) -> None:
        """That a long prompt has been read; once."""
        if self._reading and (self._missing or 0) > self._chunk:
            note(f"{self._missing:,} tokens read in {duration(time.monotonic() - self._start)}")
        self._reading = False

    def clear(self) -> None:
        if self._shown:
            _write(CLEAR)
            self._shown = False

    def _line(self, now: float) -> str:
        share = min(1.0, self._done / self._layers)  # a model that drafts for itself beats while it drafts too
        read, whole = self._read(share), self._missing or 0
        if not self._made.report.passes and whole > 1:
            self._reading = True
            left = (now - self._start) * (whole - read) / read if read else 0
            return f"reading {read:,.0f} of {whole:,} tokens {bar(read / whole)} {duration(left) if read else '?'}"
        rate = self._made.report.tokens_per_pass
        accepted = f", {rate:.1f} tokens/pass" if rate else ""
        return f"pass {self._made.report.passes + 1}, {share:.0%} of layers{accepted}"

    def _read(self, share: float) -> float:
        """Tokens of the prompt so far."""
        whole = self._missing or 0
        before = min(whole, (self._target.passes - self._first) * self._chunk)
        return before + share * min(self._chunk, whole - before)

    @property
    def _chunk(self) -> int:
        """Tokens of a prompt that one pass reads."""
        return max(self._target.limits.tree, self._target.limits.chunk)

    def _draw(self, line: str) -> None:
        room = shutil.get_terminal_size().columns - 1
        shown = click.style(line[:room], dim=True) if coloured(sys.stderr) else line[:room]
        _write(f"{CLEAR}{BELOW}{shown}{BACK}")
        self._shown = True


def _write(text: str) -> None:
    sys.stderr.write(text)
    sys.stderr.flush()
