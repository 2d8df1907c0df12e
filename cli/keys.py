"""What is typed while a model is loaded or an answer is written: text waits for the next prompt, Esc stops the answer."""

import contextlib
import os
import re
import select
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

EVERY = 0.05  # seconds between two looks
SEQUENCE = re.compile(rb"\x1b(\[[0-?]*[ -/]*[@-~]|O.|[^\x1b\[O])")  # arrows, Alt with a key
CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f]")
STOPS = (b"\x1b", b"\x03")  # Esc, and a Ctrl-C that was typed while an editor still had the terminal


class Keys:
    """The terminal's keys, without echo, as they come; Ctrl-C stays a signal, which throws nothing away that was written."""

    def __init__(self) -> None:
        self._file = sys.stdin.fileno()
        self._before: list[Any] | None = None  # how the terminal was
        self._typed, self._looked, self._watching = b"", 0.0, False

    @contextmanager
    def held(self) -> Iterator[None]:
        """Inside, the terminal shows no key by itself (nor ^C), but where an editor has it: from one prompt to the next."""
        self._before = termios.tcgetattr(self._file)
        raw = termios.tcgetattr(self._file)
        raw[0] &= ~termios.ICRNL
        raw[3] &= ~(termios.ICANON | termios.ECHO)
        raw[3] |= termios.NOFLSH
        self._set(raw)
        try:
            yield
        finally:
            self.restore()

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Inside what is held: keys are looked at; what was typed by the end waits for who asks."""
        self._watching = True
        try:
            yield
        finally:
            self._watching = False
            self._look()

    def restore(self) -> None:
        if self._before:
            self._set(self._before)
            self._before = None

    def escape(self) -> bool:
        """Whether Esc was pressed, or a Ctrl-C that is no signal."""
        if not self._watching or time.monotonic() - self._looked < EVERY:
            return False
        self._looked = time.monotonic()
        return self._look()

    def text(self) -> str:
        """What was typed since this was last asked."""
        typed, self._typed = self._typed.decode(errors="replace").replace("\r", "\n"), b""
        return CONTROL.sub("", typed)

    def _look(self) -> bool:
        got = b""
        while select.select([self._file], [], [], 0)[0] and (more := os.read(self._file, 1024)):
            got += more
        got = SEQUENCE.sub(b"", got)
        self._typed += got.replace(b"\x1b", b"")
        return any(key in got for key in STOPS)

    def _set(self, mode: list[Any]) -> None:
        with contextlib.suppress(termios.error):  # a terminal that has gone away
            termios.tcsetattr(self._file, termios.TCSADRAIN, mode)
