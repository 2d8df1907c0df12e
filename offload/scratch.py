"""A file without a name, for what memory does not hold: all its room is taken when it is made, and a kill leaves nothing."""

import errno
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from offload.direct import PAGE
from offload.errors import OffloadError
from offload.size import size as said
from offload.writing import FULL, NoRoom

Call = Callable[[int, list[memoryview], int], int]


class Scratch:
    """`size` bytes on `folder`'s disk, read and written by whole pages, past the page cache where that is possible.

    hint: what to type where the disk fails. Its methods raise OffloadError, NoRoom where the disk is too small.
    """

    def __init__(self, folder: Path, size: int, hint: str) -> None:
        self.folder, self.hint = folder, hint
        try:
            self._descriptor = self._nameless()
            self._direct(True)
            self._reserve(size)
        except OSError as error:
            raise self._failed("making", error) from error

    def read(self, into: memoryview, at: int) -> None:
        self._all("reading", os.preadv, into, at)

    def write(self, of: memoryview, at: int) -> None:
        self._all("writing", os.pwritev, of, at)

    def close(self) -> None:
        os.close(self._descriptor)

    def _nameless(self) -> int:
        descriptor, name = tempfile.mkstemp(prefix=".specexec-kv-", dir=self.folder)
        os.unlink(name)
        return descriptor

    def _direct(self, on: bool) -> bool:
        """Whether it is so now."""
        if sys.platform != "linux":
            return False
        import fcntl

        flags = fcntl.fcntl(self._descriptor, fcntl.F_GETFL)
        try:
            fcntl.fcntl(self._descriptor, fcntl.F_SETFL, flags | os.O_DIRECT if on else flags & ~os.O_DIRECT)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            return False
        return on

    def _reserve(self, size: int) -> None:
        free = shutil.disk_usage(self.folder).free
        if free < size:
            raise NoRoom(f"{self.folder} has {said(free)} free; keys and values take {said(size)}.", hint=self.hint)
        if sys.platform == "linux":
            os.posix_fallocate(self._descriptor, 0, size)
        else:
            os.ftruncate(self._descriptor, size)

    def _all(self, what: str, call: Call, part: memoryview, at: int) -> None:
        """A call moves what it likes, and is made again for the rest of a page."""
        while part:
            try:
                got = self._once(call, part, at)
            except OSError as error:
                raise self._failed(what, error) from error
            part, at = part[got:], at + got

    def _once(self, call: Call, part: memoryview, at: int) -> int:
        try:
            got = call(self._descriptor, [part], at)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            self._direct(False)  # some file systems let a file be opened for direct access and refuse it
            got = call(self._descriptor, [part], at)
        whole = got if got == len(part) else got - got % PAGE
        if not whole:
            raise OSError(errno.EIO, "it ends too soon")
        return whole

    def _failed(self, what: str, error: OSError) -> OffloadError:
        kind = NoRoom if error.errno in FULL else OffloadError
        return kind(f"{what} a file for keys and values in {self.folder} failed: {error.strerror}.", hint=self.hint)
