"""What decoding one token after another took: seconds, rates, bytes that really came from the disk."""

import json
import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol, TypeVar

from tests.benchmarks.streaming_peers.room import size

PROMPT = 1, 2, 3, 4, 5, 6, 7, 8
CACHES, COUNTERS = Path("/proc/sys/vm/drop_caches"), Path("/proc/self/io")


Result = TypeVar("Result")


class Decoder(Protocol):
    def decode(self, tokens: Sequence[int]) -> int:
        """The likeliest token after these, which follow those of earlier calls."""


@dataclass(frozen=True)
class Figures:
    """seconds, disk: of each token after the prompt, the latter in bytes, NaN where nobody counts. bytes: of the model's files.

    ram: bytes it was limited to, None where it was not. dropped: no page of the files was in memory before.
    """

    peer: str
    model: str
    bytes: int
    ram: int | None
    dropped: bool
    threads: int
    load_seconds: float
    prompt_tokens: int
    prompt_seconds: float
    seconds: list[float]
    disk: list[float]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    def show(self) -> None:
        """JSON last."""
        limit = "all memory" if self.ram is None else f"{self.ram / 2**30:.1f} GiB"
        print(f"{self.peer}, {self.model}: {self.bytes / 1e9:.2f} GB within {limit}, {self.threads} threads, "
              f"page cache {'dropped' if self.dropped else 'NOT dropped: that takes root on Linux'}")
        print(f"loaded in {self.load_seconds:.1f} s, {self.prompt_tokens} tokens of prompt in {self.prompt_seconds:.2f} s")
        for index, (seconds, disk) in enumerate(zip(self.seconds, self.disk, strict=True)):
            print(f"token {index + 1}: {seconds:.3f} s, {disk / 1e9:.2f} GB from disk")
        print(f"median {self.median:.3f} s, {1 / self.median:.3f} tokens/s, {self.bytes / self.median / 1e9:.2f} GB/s")
        derived = {"median_seconds": self.median, "tokens_per_second": 1 / self.median,
                   "gigabytes_per_second": self.bytes / self.median / 1e9}
        print(json.dumps(asdict(self) | derived))


def drop() -> bool:
    """Empties the page cache of the whole machine; False where this user may not. Written files are on the disk by then."""
    try:
        CACHES.write_text("3")
    except OSError:
        return False
    return True


def come_from_disk() -> float:
    """Bytes that this process has had read so far."""
    try:
        return float(dict(line.split(": ") for line in COUNTERS.read_text().splitlines())["read_bytes"])
    except OSError:
        return float("nan")


def cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def timed(step: Callable[[], Result]) -> tuple[Result, float, float]:
    """(its result, seconds, bytes from disk) of a step."""
    began, read = time.perf_counter(), come_from_disk()
    result = step()
    return result, time.perf_counter() - began, come_from_disk() - read


def measure(peer: str, path: Path, ram: int | None, count: int, load: Callable[[], Decoder]) -> Figures:
    """A prompt, then `count` tokens one by one, each the likeliest."""
    dropped = drop()
    decoder, load_seconds, _ = timed(load)
    token, prompt_seconds, _ = timed(lambda: decoder.decode(PROMPT))
    seconds, disk = [], []
    for _ in range(count):
        token, took, read = timed(lambda token=token: decoder.decode([token]))
        seconds.append(took)
        disk.append(read)
    return Figures(peer, str(path), size(path), ram, dropped, cores(), load_seconds, len(PROMPT), prompt_seconds, seconds, disk)
