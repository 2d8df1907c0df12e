"""How far a long work is, on stderr: one line that is rewritten on a terminal, now and then a line elsewhere."""

import os
import shutil
import sys
import time
from collections import deque
from collections.abc import Mapping
from threading import RLock

import click

from cli.render import note
from offload.size import size

WINDOW = 10.0  # seconds that a rate is taken over
EVERY, OFTEN, SELDOM = 0.1, 2.0, 30.0  # seconds between rewritten lines; at least and at most between plain ones,
STEPS = 20  # of which there are about as many
CELLS, HOURS, NAMED = 10, 99, 30
YES = ("1", "ON", "YES", "TRUE")


class Progress:
    """Implements offload's Watcher for the work called `name`, of several threads. quiet: says nothing at all.

    patience: seconds of work before the first line.
    """

    def __init__(self, name: str, quiet: bool, patience: float = 0.0) -> None:
        self.name, self.quiet, self._patience = name, quiet, patience
        self._bars = not quiet and os.environ.get("HF_HUB_DISABLE_PROGRESS_BARS", "").upper() not in YES
        self._live = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
        self._width = 0  # of the line that stands there
        self._lock = RLock()
        self._total = self._done = 0
        self.begin(0, 0)

    def begin(self, total: int, done: int) -> None:
        self._total, self._done = total, done
        self._shown, self._step = time.monotonic(), done * STEPS // max(total, 1)
        self._marks, self._patient = deque([(self._shown, done)]), self._shown + self._patience

    def work(self, here: Mapping[str, int], total: int) -> None:
        if done := sum(here.values()):
            self.say(f"resuming: {size(done)} of {size(total)} already here, verified")
        self.begin(total, done)

    def advance(self, what: str, count: int) -> None:
        with self._lock:
            self._done += count
            now = time.monotonic()
            if self._bars and self._due(now):
                self._mark(now)
                self._show(what.removesuffix(".safetensors"))

    def say(self, text: str) -> None:
        with self._lock:
            self.clear()
            note(text, self.quiet)

    def clear(self) -> None:
        if self._width:
            click.echo("\r" + " " * self._width + "\r", nl=False, err=True)
            self._width = 0

    @property
    def so_far(self) -> str:
        return self._figures(" of ")

    def _figures(self, between: str) -> str:
        unit, name = (1e9, "GB") if self._total >= 1e9 else (1e6, "MB")
        return f"{self._done / unit:.1f}{between}{self._total / unit:.1f} {name}"

    def _due(self, now: float) -> bool:
        since, step = now - self._shown, self._done * STEPS // self._total
        if self._live:
            return since >= EVERY and now > self._patient
        return since >= SELDOM or (since >= OFTEN and step > self._step)

    def _mark(self, now: float) -> None:
        self._shown, self._step = now, self._done * STEPS // self._total
        self._marks.append((now, self._done))
        while now - self._marks[1][0] > WINDOW:
            self._marks.popleft()

    def _show(self, what: str) -> None:
        share, numbers = self._numbers()
        if not self._live:
            note(f"{self.name[:NAMED]} {share:4.0%} {numbers}  {what}")
            return
        line = self._line(share, numbers, what, shutil.get_terminal_size().columns - 1)
        self.clear()
        self._width = len(line)
        click.echo("\r" + line, nl=False, err=True)

    def _numbers(self) -> tuple[float, str]:
        """How much is done, and how much of how much, how fast, how long it will take yet."""
        (then, before), (now, done) = self._marks[0], self._marks[-1]
        rate = (done - before) / max(now - then, 1e-9)
        left = duration((self._total - done) / rate) if rate else "?"
        return done / self._total, f"{self._figures('/')}  {rate / 1e6:.0f} MB/s  {left}"

    def _line(self, share: float, numbers: str, what: str, room: int) -> str:
        """All that there is room for: a name may be cut, a number is there whole or not at all."""
        name, some = self.name[:NAMED], f"{share:4.0%}"
        cut = name[: max(0, room - len(f" {some} {numbers}"))]
        ways = (f"{name} {some} {bar(share)} {numbers}  {what}", f"{name} {some} {bar(share)} {numbers}",
                f"{cut} {some} {numbers}", f"{some} {numbers}".strip(), some.strip())
        return next((way for way in ways if len(way) <= room), "")


def duration(seconds: float) -> str:
    """In two units at most."""
    whole = round(seconds)
    hours, minutes = whole // 3600, whole // 60 % 60
    if hours > HOURS:
        return f"{HOURS}h+"
    return f"{hours}h{minutes:02}m" if hours else f"{minutes}m{whole % 60:02}s" if minutes else f"{whole}s"


def bar(share: float) -> str:
    full, empty = "█" * round(share * CELLS), " " * (CELLS - round(share * CELLS))
    try:
        f"▕{full}▏".encode(sys.stderr.encoding)
    except (UnicodeError, LookupError):
        return f"[{'#' * len(full)}{empty}]"
    return f"▕{full}{empty}▏"
