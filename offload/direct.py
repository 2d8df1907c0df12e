"""Reading files past the page cache, which never hits on a cyclic scan and costs the arithmetic its cores."""

import errno
import os
import sys
from collections.abc import Callable
from pathlib import Path

from offload.errors import DamagedFiles, OffloadError

BLOCK = 2**24  # bytes a read; from 4 to 16 MiB measured alike
PAGE = 2**12


class DirectFile:
    """A file to be read in whole pages. why_plain: why its reads go through the page cache, or None."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.why_plain: str | None = None
        self._descriptor = self._open()

    def _open(self) -> int:
        try:
            return self._direct()
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise OffloadError(f"{self.path} cannot be opened: {error.strerror}.", hint="specexec verify MODEL") from error
        self.why_plain = "its file system knows no direct reads"
        return os.open(self.path, os.O_RDONLY)

    def _direct(self) -> int:
        if sys.platform == "darwin":
            import fcntl

            found = os.open(self.path, os.O_RDONLY)
            fcntl.fcntl(found, fcntl.F_NOCACHE, 1)
            return found
        return os.open(self.path, os.O_RDONLY | getattr(os, "O_DIRECT", 0))

    def read(self, into: memoryview, stop: Callable[[], bool] = lambda: False) -> bool:
        """Fills `into`, as long as the file and whole pages, from the file's start; False: stopped between blocks.

        Raises DamagedFiles where the file is of another length, OffloadError where the disk fails, naming file and offset.
        """
        size, done = os.fstat(self._descriptor).st_size, 0
        if size != len(into):
            raise DamagedFiles(f"{self.path} has {size:,} bytes, not {len(into):,}.", hint="convert or fetch the model again")
        while done < size:
            if stop():
                return False
            done += self._block(into[done : done + BLOCK], done)
        return True

    def _block(self, part: memoryview, offset: int) -> int:
        try:
            got = os.preadv(self._descriptor, [part], offset)
        except OSError as error:
            what = f"reading {self.path} failed at byte {offset:,}: {error.strerror}."
            raise OffloadError(what, hint="check the disk, then: specexec verify MODEL") from error
        if not got or (got % PAGE and got < len(part)):
            raise DamagedFiles(f"{self.path} ends at byte {offset + got:,}.", hint="convert or fetch the model again")
        return got

    def close(self) -> None:
        os.close(self._descriptor)
