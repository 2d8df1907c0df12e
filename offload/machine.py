"""What this machine has, and how fast it is where a pass spends its time."""

import os
import platform
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from offload import bus, disk
from offload.measured import Measured

CGROUP = Path("/sys/fs/cgroup")
COUNTS = (1, 8, 32, 128, 512)  # tokens of a pass
QUERIES = (1, 4, 32, 128, 512)  # of a head of keys and values
FEW = (1, 4, 8)  # of a pass that drafts
BF16 = "bf16"
RATE, LAYER = ("bytes/s",), ("s a layer",)


@dataclass(frozen=True)
class Machine:
    """ram: bytes free; vram: a device's, None without one. disk: bytes a second of direct reads in a certain folder.

    bus: bytes a second from host to device. products: {tokens of a pass: weights a second that they are multiplied with}.
    attention: {format: {queries of a head: bytes of its keys and values a second, that they see}}, of as many positions in each
    format: as if their bytes were bf16's; empty where nobody asked. chosen: the same of rows that a view has chosen.
    layer: seconds that one takes besides, 0 where nobody asked.
    """

    ram: int
    vram: int | None
    disk: float
    bus: float | None
    products: Mapping[int, float]
    attention: Mapping[str, Mapping[int, float]] = field(default_factory=dict)
    chosen: Mapping[str, Mapping[int, float]] = field(default_factory=dict)
    layer: float = 0.0

    def seeing(self, kv: str = BF16) -> Mapping[int, float]:
        """Attention over keys and values of that format."""
        return self.attention.get(kv) or self.attention.get(BF16, {})

    def choosing(self, kv: str = BF16) -> Mapping[int, float]:
        """The same over chosen rows of them; plain torch copies those, and then they lie together."""
        return self.chosen.get(kv) or self.seeing()


@dataclass(frozen=True)
class Arithmetic:
    """What computes, so named that another format or library has another name, and how it is measured."""

    name: str
    measure: Callable[[Sequence[int]], Mapping[int, float]]


@dataclass(frozen=True)
class Calls:
    """What a layer takes besides, so named; measure: its seconds."""

    name: str
    measure: Callable[[], float]


def measure(
    cache: Measured, sample: disk.Sample, arithmetic: Arithmetic, seeing: Mapping[str, Arithmetic] | None = None,
    choosing: Mapping[str, Arithmetic] | None = None, calls: Calls | None = None,
) -> Machine:
    """Takes seconds the first time; what memory is free is looked at each time. Raises OffloadError.

    seeing: {format: attention over it}; choosing: over chosen rows of it. calls: of a layer.
    """
    read = cache.once(f"disk {sample.mount}", RATE, lambda: dict.fromkeys(RATE, disk.read_rate(sample)))[RATE[0]]
    return Machine(free_memory(), bus.free_vram(), read, _bus(cache), products(cache, arithmetic),
                   {kv: attention(cache, of) for kv, of in (seeing or {}).items()},
                   {kv: attention(cache, of, FEW) for kv, of in (choosing or {}).items()},
                   layer(cache, calls) if calls else 0.0)


def products(cache: Measured, arithmetic: Arithmetic) -> dict[int, float]:
    """{tokens: weights a second}, of COUNTS."""
    return _rates(cache, "products", arithmetic, COUNTS)


def attention(cache: Measured, arithmetic: Arithmetic, counts: Sequence[int] = QUERIES) -> dict[int, float]:
    """{queries: bytes a second}, of counts."""
    return _rates(cache, "attention", arithmetic, counts)


def layer(cache: Measured, calls: Calls) -> float:
    """Seconds."""
    return cache.once(f"calls {processor()}: {calls.name}", LAYER, lambda: dict.fromkeys(LAYER, calls.measure()))[LAYER[0]]


def _rates(cache: Measured, what: str, arithmetic: Arithmetic, counts: Sequence[int]) -> dict[int, float]:
    found = cache.once(f"{what} {processor()}: {arithmetic.name}", map(str, counts),
                       lambda: {str(n): rate for n, rate in arithmetic.measure(counts).items()})
    return {n: found[str(n)] for n in counts}


def _bus(cache: Measured) -> float | None:
    name = bus.device()
    if name is None:
        return None
    return cache.once(f"bus {processor()}: {name}", RATE, lambda: dict.fromkeys(RATE, bus.rate()))[RATE[0]]


def processor() -> str:
    """The CPU's model and how many cores may be used."""
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count()
    return f"{_model()}, {cores} cores"


def _model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())


def free_memory() -> int:
    """Bytes that may be used without pushing anything out: the system's, or less where a cgroup says so."""
    return min([psutil.virtual_memory().available, *_cgroup()])


def _cgroup() -> list[int]:
    """What the cgroup's limit leaves, where there is one."""
    limit, used = (_number(CGROUP / name) for name in ("memory.max", "memory.current"))
    return [] if limit is None or used is None else [max(0, limit - used)]


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):  # "max", or no cgroups
        return None
