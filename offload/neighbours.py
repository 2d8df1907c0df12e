"""What other programs compute meanwhile: figures that are measured beside them are theirs too."""

import time
from types import TracebackType

import psutil

QUIET = 0.25  # cores that others may use


class Neighbours:
    """Around a measurement; afterwards `cores` says how many cores other programs used on average."""

    cores = 0.0

    def __enter__(self) -> "Neighbours":
        self._began, self._others = time.perf_counter(), _others()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.cores = max(0.0, (_others() - self._others) / (time.perf_counter() - self._began))

    @property
    def busy(self) -> bool:
        return self.cores > QUIET


def _others() -> float:
    """Seconds that all other programs have computed."""
    every = psutil.cpu_times()
    return float(every.user + every.system + getattr(every, "nice", 0.0)) - time.process_time()
