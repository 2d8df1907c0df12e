"""How fast a file system is read as the streamer reads it: whole large files, past the page cache, into huge pages."""

import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from offload.buffer import Buffer
from offload.direct import BLOCK, PAGE, DirectFile
from offload.errors import OffloadError

READ = 2**30  # bytes in all
FILES = 4  # that are written where there are none
LEAST_READS = 3
LARGE = 2**24  # bytes of a file that shows the rate of a larger one
SHARE = 8  # of the room that is free, the part that is written at most
PREFIX = ".specexec-measure-"


@dataclass(frozen=True)
class Sample:
    """folder: where files are written, if need be made. files: those of LARGE bytes or more are read instead, all on one disk.

    read: bytes in all.
    """

    folder: Path
    files: Sequence[Path] = ()
    read: int = READ

    @property
    def mount(self) -> str:
        """Which disk it is: its device's number and where it is mounted."""
        path = (self.files or [self.folder])[0].resolve()
        there = next(place for place in (path, *path.parents) if place.exists())
        mounted = next(place for place in (there, *there.parents) if place.is_mount())
        return f"{there.stat().st_dev} at {mounted}"


def read_rate(sample: Sample) -> float:
    """Bytes a second, the median of several files. Without large ones some are written, and removed whatever happens.

    Raises OffloadError where nothing can be written or read.
    """
    if found := _spread([path for path in sample.files if path.stat().st_size >= LARGE], sample.read):
        return statistics.median(_rate(path) for path in found)
    with _written(sample.folder, sample.read) as made:
        return statistics.median(_rate(path) for path in made)


def _spread(files: Sequence[Path], read: int) -> Sequence[Path]:
    """So many, evenly chosen, as have `read` bytes together."""
    if not files:
        return ()
    count = min(len(files), max(LEAST_READS, read // files[0].stat().st_size))
    return [files[i * len(files) // count] for i in range(count)]


@contextmanager
def _written(folder: Path, read: int) -> Iterator[list[Path]]:
    """Files of bytes that no file system can make smaller."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        room = shutil.disk_usage(folder).free // SHARE
        size = max(min(read, room) // FILES // PAGE, 1) * PAGE
        with tempfile.TemporaryDirectory(prefix=PREFIX, dir=folder) as made:
            paths = [Path(made, str(number)) for number in range(FILES)]
            for path in paths:
                _write(path, size)
            yield paths
    except OSError as error:
        raise OffloadError(f"the disk of {folder} cannot be measured: {error.strerror}.",
                           hint="SPECEXEC_HOME=DIR, a folder with room that may be written to") from error


def _write(path: Path, size: int) -> None:
    noise = np.random.default_rng()
    with path.open("wb") as file:
        for start in range(0, size, BLOCK):
            file.write(noise.bytes(min(BLOCK, size - start)))
        file.flush()
        os.fsync(file.fileno())


def _rate(path: Path) -> float:
    buffer, file = Buffer(path.stat().st_size), DirectFile(path)
    try:
        _forget(path)
        began = time.perf_counter()
        file.read(buffer.view)
        return buffer.size / (time.perf_counter() - began)
    finally:
        file.close()


def _forget(path: Path) -> None:
    """A file system without direct reads would show how fast memory is."""
    if hasattr(os, "posix_fadvise"):
        descriptor = os.open(path, os.O_RDONLY)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)
