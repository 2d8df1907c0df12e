"""Reading files past the page cache, which never hits on a cyclic scan and costs the arithmetic its cores."""

import errno
import os
import sys
from collections.abc import Callable
from pathlib import Path

from offload.errors import DamagedFiles, OffloadError

BLOCK = 2**24  # bytes a read; from 4 to 16 MiB measured alike
PAGE = 2**12
AGAIN = "convert or fetch the model again"


class DirectFile:
    """A file to be read in whole pages. why_plain: why its reads go through the page cache, or None.

    Its methods raise DamagedFiles where the file is of another length, and OffloadError where the disk fails, naming file
    and offset.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.why_plain: str | None = None
        try:
            self._descriptor = self._open()
        except OSError as error:
            raise OffloadError(f"{path} cannot be opened: {error.strerror}.", hint=f"specexec verify {path.parent}") from error

    def _open(self) -> int:
        try:
            return self._direct()
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            return self._plain()

    def _direct(self) -> int:
        if sys.platform == "darwin":
            import fcntl

            found = os.open(self.path, os.O_RDONLY)
            fcntl.fcntl(found, fcntl.F_NOCACHE, 1)
            return found
        return os.open(self.path, os.O_RDONLY | getattr(os, "O_DIRECT", 0))

    def _plain(self) -> int:
        self.why_plain = "its file system knows no direct reads"
        return os.open(self.path, os.O_RDONLY)

    def read(self, into: memoryview, stop: Callable[[], bool] = lambda: False) -> bool:
        """Fills `into`, as long as the file and whole pages, from the file's start; False: stopped between blocks."""
        self.check_size(len(into))
        done = 0
        while done < len(into):
            if stop():
                return False
            done += self.read_block(into[done : done + BLOCK], done)
        return True

    def check_size(self, wanted: int) -> None:
        check_size(self._descriptor, self.path, wanted)

    def read_block(self, part: memoryview, offset: int) -> int:
        """Fills `part` from a page on, or some whole pages of it; the bytes read."""
        try:
            got = self._pread(part, offset)
        except OSError as error:
            raise failed(self.path, offset, error) from error
        whole = got if got == len(part) else got - got % PAGE  # the rest of a page is read again, as a whole one
        if not whole:
            raise DamagedFiles(f"{self.path} ends at byte {offset + got:,}.", hint=AGAIN)
        return whole

    def _pread(self, part: memoryview, offset: int) -> int:
        try:
            return os.preadv(self._descriptor, [part], offset)
        except OSError as error:
            if error.errno != errno.EINVAL or self.why_plain:
                raise
        self.close()  # some file systems open for direct reads and refuse to read so
        self._descriptor = self._plain()
        return os.preadv(self._descriptor, [part], offset)

    def close(self) -> None:
        os.close(self._descriptor)


def check_size(descriptor: int, path: Path, wanted: int) -> None:
    """Raises DamagedFiles where the open file is of another length, and OffloadError."""
    try:
        size = os.fstat(descriptor).st_size
    except OSError as error:
        raise failed(path, 0, error) from error
    if size != wanted:
        raise DamagedFiles(f"{path} has {size:,} bytes, not {wanted:,}.", hint=AGAIN)


def failed(path: Path, offset: int, error: OSError) -> OffloadError:
    """What to raise where a read fails."""
    what = f"reading {path} failed at byte {offset:,}: {error.strerror}."
    return OffloadError(what, hint=f"check the disk, then: specexec verify {path.parent}")
