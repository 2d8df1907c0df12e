"""How often something that may pass is tried again, and how long is waited for it."""

import time
from collections.abc import Callable

WAITS, BRIEF = (0, 1, 4, 15, 60), (0, 1, 4)  # seconds before each further attempt: in the middle of a file, and before it
LONGEST = 120.0  # seconds that a server's own wish is waited for


class Patience:
    """say: told before a wait."""

    def __init__(self, say: Callable[[str], None], waits: tuple[float, ...] | None = None) -> None:
        self.say, self.waits, self._failures = say, WAITS if waits is None else waits, 0

    def renew(self) -> None:
        """Something was achieved."""
        self._failures = 0

    def wait(self, why: str, wished: float | None = None) -> bool:
        """Waits before the next attempt; False: there is to be none. wished: seconds the server asked for."""
        if self._failures == len(self.waits) or (wished or 0) > LONGEST:
            return False
        seconds = self.waits[self._failures] if wished is None else wished
        self._failures += 1
        if seconds:
            self.say(f"{why}; trying again in {seconds:g} s")
            time.sleep(seconds)
        return True
