"""How much time there is for drafting ahead."""

SHARE = 0.8  # of a pass's waits that the next one may fill


class Ahead:
    """Keeps what is drafted while passes wait within the time that they wait anyway."""

    def __init__(self) -> None:
        self._waited = self._spent = self._room = 0.0  # seconds

    def begin(self, waited: float) -> None:
        """A pass begins; passes have waited so many seconds by now."""
        self._room = SHARE * (waited - self._waited)
        self._waited, self._spent = waited, 0.0

    def affords(self, seconds: float) -> bool:
        return self._spent + seconds <= self._room

    def spent(self, seconds: float) -> None:
        self._spent += seconds
