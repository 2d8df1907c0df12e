"""Seconds of arms that take turns: whatever drifts in the machine drifts for all of them."""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

STAT = Path("/proc/stat")
TICKS = 100  # a second, of /proc/stat
QUIET = 0.15  # of a core that others may use


@dataclass(frozen=True)
class Timed:
    """Medians, in seconds a call. elsewhere: cores that other processes used meanwhile, NaN where nobody can tell."""

    seconds: dict[str, float]
    elsewhere: float


def all_busy() -> float:
    """Seconds that all processes together have computed; NaN outside Linux."""
    if not STAT.exists():
        return float("nan")
    user, nice, system = STAT.read_text(encoding="ascii").split(maxsplit=4)[1:4]
    return (int(user) + int(nice) + int(system)) / TICKS


def elsewhere(work: Callable[[], object]) -> float:
    """Cores that other processes used during `work`."""
    began, busy, own = time.perf_counter(), all_busy(), time.process_time()
    work()
    return (all_busy() - busy - (time.process_time() - own)) / (time.perf_counter() - began)


def burst(arm: Callable[[], object], seconds: float) -> float:
    """The median of as many calls as fit into `seconds`: three at least, or one where one alone takes longer."""
    took: list[float] = []
    while not took or (sum(took) < seconds if len(took) >= 3 else took[0] < seconds):
        began = time.perf_counter()
        arm()
        took.append(time.perf_counter() - began)
    return statistics.median(took)


def alternate(arms: Mapping[str, Callable[[], object]], rounds: int, seconds: float = 0.05, patience: int = 40) -> Timed:
    """Medians over `rounds` rounds in which every arm has its turn.

    A round beside busy processes is done again, `patience` times in all; then the quietest ones count.
    """
    for arm in arms.values():  # pages, caches, buffers, thread pools
        arm()
    seen: list[tuple[float, dict[str, float]]] = []
    while sum(not others > QUIET for others, _ in seen) < rounds and len(seen) < rounds + patience:
        took: dict[str, float] = {}
        others = elsewhere(lambda took=took: took.update({name: burst(arm, seconds) for name, arm in arms.items()}))
        seen.append((others, took))
        if others > QUIET:
            time.sleep(1)
    best = sorted(seen, key=lambda one: one[0])[:rounds]
    return Timed({name: statistics.median(took[name] for _, took in best) for name in arms}, best[-1][0])
