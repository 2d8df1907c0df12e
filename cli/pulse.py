"""The beat of a model's passes: between two layers it is asked whether to stop, and whoever watches is told."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from cli.interrupt import Interrupt


class Pulse:
    """Called by the target's engine before each layer; true stops the pass."""

    def __init__(self, interrupt: Interrupt) -> None:
        self._interrupt = interrupt
        self._beat: Callable[[], None] = lambda: None

    def __call__(self) -> bool:
        self._beat()
        return self._interrupt.requested()

    @contextmanager
    def watched(self, beat: Callable[[], None]) -> Iterator[None]:
        """Inside, `beat` is called before each layer."""
        before, self._beat = self._beat, beat
        try:
            yield
        finally:
            self._beat = before
