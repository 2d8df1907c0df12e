"""What this machine has."""

from pathlib import Path

import psutil

CGROUP = Path("/sys/fs/cgroup")


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
