"""Files that are there whole or not at all: a temporary name, fsync, rename."""

import errno
import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import xxhash

from offload.errors import OffloadError
from offload.manifest import Entry

TEMPORARY = ".part"
FULL = (errno.ENOSPC, errno.EDQUOT)
BLOCK = 2**22  # bytes hashed at a time, while they are in a core's cache

Pieces = Iterable[memoryview | bytes]


class NoRoom(OffloadError):
    """A disk that is full, or too small."""

    exit_code = 3


@contextmanager
def written(path: Path, mode: int = 0o666) -> Iterator[BinaryIO]:
    """A file to write, which is at `path` and on the disk once this is left; an earlier one stays where that raises."""
    temporary = path.with_name(path.name + TEMPORARY)
    try:
        # buffered: a raw write may stop half-way on a full disk and not say so
        with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)  # a full disk gets its room back
        raise
    settle(path.parent)


def write(path: Path, pieces: Pieces, wrote: Callable[[int], None] = lambda count: None) -> Entry:
    """The file at `path`, on the disk when this returns. wrote: told bytes as they are written. Raises OSError."""
    sha256, xxh3, size = hashlib.sha256(), xxhash.xxh3_64(), 0
    with written(path) as file:
        for part in _blocks(pieces):
            sha256.update(part)
            xxh3.update(part)
            file.write(part)
            size += len(part)
            wrote(len(part))
    return Entry(size, sha256.hexdigest(), xxh3.hexdigest())


def settle(folder: Path) -> None:
    """The names in a folder, on the disk when this returns."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def entry_of(path: Path, read: Callable[[int], None] = lambda count: None) -> Entry:
    """Of a file as it is. read: told bytes as they are read. Raises OSError."""
    sha256, xxh3, size = hashlib.sha256(), xxhash.xxh3_64(), 0
    with path.open("rb", buffering=0) as file:
        while part := file.read(BLOCK):
            sha256.update(part)
            xxh3.update(part)
            size += len(part)
            read(len(part))
    return Entry(size, sha256.hexdigest(), xxh3.hexdigest())


def _blocks(pieces: Pieces) -> Iterable[memoryview]:
    for piece in pieces:
        whole = memoryview(piece)
        for start in range(0, len(whole), BLOCK):
            yield whole[start : start + BLOCK]
