"""One thing done in a thread while others are: what comes next is fetched while what came is converted."""

from collections.abc import Callable, Sequence
from threading import Event, Thread

PATIENCE = 2.0  # seconds that a thread is given to notice that it is to stop


class Stopped(Exception):
    """Nobody waits for it any more."""


class Ahead:
    """fetch(name): raises Stopped where `stopping` is set."""

    def __init__(self, fetch: Callable[[str], None]) -> None:
        self._fetch = fetch
        self._thread: Thread | None = None
        self._error: BaseException | None = None
        self.stopping = Event()

    def begin(self, names: Sequence[str]) -> None:
        """Unless it is at work, or has failed."""
        if names and not self._error and not (self._thread and self._thread.is_alive()):
            self._thread = Thread(target=self._run, args=(names,), daemon=True)  # the end of the program does not wait
            self._thread.start()

    def _run(self, names: Sequence[str]) -> None:
        try:
            for name in names:
                self._fetch(name)
        except BaseException as error:
            self._error = error

    def end(self) -> None:
        """Waits for what was begun; raises what it raised."""
        if self._thread:
            self._thread.join()
        if self._error:
            raise self._error

    def stop(self) -> None:
        self.stopping.set()
        if self._thread:
            self._thread.join(PATIENCE)
