"""This program again, inside a memory cgroup of its own, whose page cache counts too: a machine with less memory."""

import os
import re
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

MOUNTS, OWN = Path("/proc/self/mountinfo"), Path("/proc/self/cgroup")
PACKAGE = "tests.benchmarks.streaming_peers"
ENTER = 'echo $$ > "$1/cgroup.procs" && shift && exec "$@"'
UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30}


class Absent(Exception):
    """No memory cgroups here, or not for this user."""


@dataclass(frozen=True)
class Version:
    """outer: where groups are made. limits: files that take a size, those that may be absent last."""

    outer: Path
    limits: tuple[str, ...]


def amount(text: str) -> int:
    """Bytes of 3GiB, 3G, 512MiB, ... Raises ValueError."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMG]?)(?:iB)?", text)
    if not found:
        raise ValueError(text)
    return int(float(found[1]) * UNITS[found[2]])


def version() -> Version:
    """Of cgroups, v2 or v1, with a memory controller. Raises Absent or OSError."""
    mounts = [(line.split(), line.split(" - ")[1].split()) for line in MOUNTS.read_text().splitlines()]
    own = {name: path for _, names, path in (line.split(":", 2) for line in OWN.read_text().splitlines())
           for name in names.split(",")}
    for (_, _, _, root, point, *_), (kind, _, options) in mounts:
        if kind == "cgroup" and "memory" in options.split(","):
            return Version(below(point, root, own["memory"]), ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes"))
    for (_, _, _, root, point, *_), (kind, *_) in mounts:
        if kind == "cgroup2":
            group = below(point, root, own[""])
            # beside its own: v2 limits no children of a group that has processes, but of the topmost
            outer = group if group == Path(point) else group.parent
            if "memory" in (outer / "cgroup.subtree_control").read_text().split():
                return Version(outer, ("memory.max",))
    raise Absent("no cgroup file system with a memory controller is mounted")


def below(point: str, root: str, group: str) -> Path:
    """A group's folder, where `root` of its hierarchy is mounted at `point`."""
    return Path(point, os.path.relpath(group, root))


def again(arguments: list[str], ram: int) -> int:
    """The exit status of this program with these arguments, within `ram` bytes. Exits with two lines where that cannot be."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # the group goes away then too
    try:
        group = made(ram)
    except (Absent, OSError) as error:
        sys.exit(f"memory cannot be limited here: {error}.\nwithout --ram, or as root on a Linux with memory cgroups")
    command = ["sh", "-c", ENTER, "sh", str(group), sys.executable, "-m", PACKAGE, *arguments]
    try:
        status = waited(command)
    finally:
        group.rmdir()
    if status == -9:
        sys.exit(f"it was killed: {ram / 2**30:.1f} GiB are too few.\na larger --ram")
    return status


def waited(command: list[str]) -> int:
    """Its exit status. It is gone after an exception too: subprocess.run would not wait for it after a Ctrl-C."""
    child = subprocess.Popen(command)
    try:
        return child.wait()
    finally:
        child.kill()
        child.wait()


def made(ram: int) -> Path:
    """A new group. Raises Absent or OSError."""
    found = version()
    group = found.outer / f"streaming-peers-{os.getpid()}"
    group.mkdir()
    try:
        for name in found.limits:
            if (group / name).exists():
                (group / name).write_text(str(ram))
        if (group / "memory.swap.max").exists():
            (group / "memory.swap.max").write_text("0")
    except OSError:
        group.rmdir()
        raise
    return group
