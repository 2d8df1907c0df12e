"""One process at a time works on a model: a lock beside its place that ends with its holder, and says who that is."""

import json
import os
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

from filelock import FileLock, Timeout

from offload.errors import Refused


@contextmanager
def locked(out: Path) -> Iterator[None]:
    """Nobody else makes, changes or removes the model at `out` meanwhile. Raises Refused, naming who does, or OSError.

    The kernel lets go of the lock when its holder dies, in whatever way; the file may then stay, which means nothing.
    """
    path = lock_of(out)
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = _taken(path, out)
    try:
        path.write_text(json.dumps(_myself()), encoding="utf-8")
        yield
    finally:
        try:
            path.unlink(missing_ok=True)  # while it is held: who waits for a file without a name tries anew
        finally:
            lock.release()


def lock_of(out: Path) -> Path:
    """The lock's file, of the model that is or will be at `out`."""
    return out.with_name(f".{out.name}.lock")


def _taken(path: Path, out: Path) -> FileLock:
    lock = FileLock(path)
    try:
        lock.acquire(blocking=False)
    except Timeout as error:
        raise Refused(f"{_holder(path)} is at work on {out}.", hint="the same command when that one has finished") from error
    return lock


def _myself() -> dict[str, str | int]:
    command = shlex.join(["specexec", *sys.argv[1:]])
    return {"pid": os.getpid(), "command": command, "since": datetime.now().isoformat(" ", "seconds")}


def _holder(path: Path) -> str:
    with suppress(OSError, ValueError, KeyError, TypeError):
        said = json.loads(path.read_text(encoding="utf-8"))
        return f"another process ({said['pid']}: {said['command']}, since {said['since']})"
    return "another process"
