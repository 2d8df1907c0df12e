"""How far a pull is: bytes that arrived are counted, while those that are written go untold."""

from collections.abc import Mapping

from offload.blueprint import Watcher
from offload.pulled import Pulled
from offload.size import size


class Tally:
    """Implements Watcher for the conversion, on behalf of `watcher`, whom the arrivals tell of their bytes."""

    def __init__(self, pulled: Pulled, watcher: Watcher) -> None:
        self.pulled, self.watcher = pulled, watcher
        self._fetching = False

    def begin(self, total: int, done: int) -> None:
        self.watcher.begin(total, done)

    def work(self, here: Mapping[str, int], total: int) -> None:
        self.pulled.begin(here)
        done, all_of_it = self.pulled.here(here), self.pulled.nbytes
        if done:  # of which a part of a file, or what the cache holds, is compared with its checksum only later
            self.watcher.say(f"resuming: {size(done)} of {size(all_of_it)} already here")
        self.watcher.begin(all_of_it, done)
        self._fetching = True

    def advance(self, what: str, count: int) -> None:
        if self._fetching:
            self.watcher.advance(self.pulled.state, 0)
        else:
            self.watcher.advance(what, count)

    def say(self, text: str) -> None:
        self.watcher.say(text)
