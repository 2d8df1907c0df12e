"""Taking a store away, and what interrupted work left: gone from sight in one step, whatever stops it then.

What a manifest is comes with torch, so it is imported where it is needed: completion, which lists names, answers at once.
"""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from offload.errors import OffloadError, Refused
from offload.lock import locked

PARTIAL, REMOVED = LEFT = (".partial", ".removed")  # of an unfinished conversion (journal.py), of an unfinished removal


@dataclass(frozen=True)
class Leftover:
    """nbytes: of disk that it takes."""

    path: Path
    nbytes: int


def remove(path: Path) -> None:
    """The folder of a store; of a link, the link alone. Killed half-way it leaves a Leftover, never a part of a store.

    Raises Refused where another process is at work on it.
    """
    try:
        with locked(path):
            _remove(path)
    except OSError as error:
        raise _refused(path, error) from error


def _remove(path: Path) -> None:
    if path.is_symlink():
        path.unlink()
        return
    doomed = path.with_name(path.name + REMOVED)
    if doomed.exists():
        shutil.rmtree(doomed)
    path.rename(doomed)
    shutil.rmtree(doomed)


def check_ours(path: Path) -> None:
    """Raises Refused where the folder of a store holds more than its manifest names, or as read_manifest."""
    from offload.manifest import NAME, read_manifest

    others = sorted({entry.name for entry in path.iterdir()} - {NAME, *read_manifest(path).files})
    if others:
        raise Refused(f"{path} holds what is not specexec's: {', '.join(others)}.",
                      hint=f"move that elsewhere, or: rm -r {path}")


def leftovers(folder: Path) -> list[Leftover]:
    found = folder.iterdir() if folder.is_dir() else ()
    return [Leftover(path, disk_bytes(path)) for path in sorted(found) if path.suffix in LEFT]


def clear(left: Leftover) -> None:
    """Raises Refused where another process is still at it, or the folder holds what is not specexec's."""
    from offload.journal import Partial

    try:
        with locked(left.path.with_suffix("")):
            if left.path.suffix == PARTIAL:
                Partial(left.path.with_suffix("")).open()
            shutil.rmtree(left.path)
    except OSError as error:
        raise _refused(left.path, error) from error


def disk_bytes(path: Path) -> int:
    """What removing it gives back: nothing for a link, or for a file that has another name elsewhere."""
    if path.is_symlink():
        return 0
    return sum(_blocks(Path(folder) / name) for folder, _, names in os.walk(path) for name in names)


def _blocks(path: Path) -> int:
    try:
        found = path.lstat()
    except FileNotFoundError:  # a conversion at work takes its temporary files away
        return 0
    return found.st_blocks * 512 if found.st_nlink == 1 else 0


def _refused(path: Path, error: OSError) -> OffloadError:
    return Refused(f"{path} cannot be removed: {error.strerror or error}.", hint=f"look who owns {path}, then the same command")
