"""Ctrl-C while an answer is written: a flag that the engines read between two layers."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

IMPATIENT = 1.0  # seconds within which a second Ctrl-C ends the program
INTERRUPTED = 130


class Interrupt:
    """requested() is true from Ctrl-C until the next answer begins."""

    def __init__(self) -> None:
        self._at: float | None = None

    def requested(self) -> bool:
        return self._at is not None

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Ctrl-C sets the flag inside; outside it is Python's own KeyboardInterrupt. Inside itself it changes nothing."""
        if signal.getsignal(signal.SIGINT) == self._hear:
            yield
            return
        self._at = None
        before = signal.signal(signal.SIGINT, self._hear)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)

    def _hear(self, number: int, frame: FrameType | None) -> None:
        if self._at is not None and time.monotonic() - self._at < IMPATIENT:
            os._exit(INTERRUPTED)
        self._at = time.monotonic()
