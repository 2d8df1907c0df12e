"""Ctrl-C while an answer is written: a flag that the engines read between two layers."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

IMPATIENT = 1.0  # seconds within which a second Ctrl-C ends the program
INTERRUPTED = 130


class Interrupt:
    """requested() is true from Ctrl-C until the next answer begins.

    also: another way to ask for it, asked between layers. leave: called before a second Ctrl-C ends the program.
    """

    def __init__(self) -> None:
        self._at: float | None = None
        self.also: Callable[[], bool] = lambda: False
        self.leave: Callable[[], None] = lambda: None

    def requested(self) -> bool:
        if self._at is None and self.also():
            self._at = time.monotonic()
        return self._at is not None

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Ctrl-C sets the flag inside; outside it is Python's own KeyboardInterrupt. Inside itself it changes nothing."""
        if signal.getsignal(signal.SIGINT) == self._hear:
            yield
            return
        self._at = None
        with _handled(self._hear):
            yield

    def _hear(self, number: int, frame: FrameType | None) -> None:
        if self._at is not None and time.monotonic() - self._at < IMPATIENT:
            self.leave()
            os._exit(INTERRUPTED)
        self._at = time.monotonic()


@contextmanager
def deaf() -> Iterator[None]:
    """Ctrl-C does nothing inside, but where something else listens: an editor reads it as a key."""
    with _handled(lambda number, frame: None):
        yield


@contextmanager
def _handled(hear: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    before = signal.signal(signal.SIGINT, hear)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
