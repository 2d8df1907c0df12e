"""Where a file of the hub arrives: beside its place, under a name that nobody takes for it, hashed as it comes."""

import os
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from offload.hub import Remote
from offload.writing import BLOCK, settle

PART = ".part"


class Landing:
    """What is there already is read, and hashed. told: bytes that arrive, or, negative, were of no use. Raises OSError."""

    def __init__(self, remote: Remote, place: Path, told: Callable[[int], None]) -> None:
        self.remote, self.place, self.told = remote, place, told
        self._part = place.with_name(place.name + PART)
        self._hash = remote.hash()
        self.size = 0

    def __enter__(self) -> "Landing":
        self.place.parent.mkdir(parents=True, exist_ok=True)
        if self.place.exists():  # whole once: no better than a part until it is read again
            self.place.replace(self._part)
        self._file = self._part.open("r+b" if self._part.exists() else "w+b")
        while block := self._file.read(BLOCK):
            self._count(block)
            self.told(0)
        if self.size > self.remote.nbytes:
            self.restart()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._file.close()

    @property
    def full(self) -> bool:
        return self.size >= self.remote.nbytes

    def write(self, block: bytes) -> None:
        """Bytes after the file's end are dropped."""
        kept = block[: self.remote.nbytes - self.size]
        self._file.write(kept)
        self._count(kept)
        self.told(len(kept))

    def restart(self) -> None:
        """Nothing of what is there is of use."""
        self.told(-self.size)
        self._file.seek(0)
        self._file.truncate()
        self._hash, self.size = self.remote.hash(), 0

    def settled(self) -> bool:
        """Whether the full file is what the hub says: then it is in its place, and on the disk; else it is gone."""
        if self._hash.hexdigest() != self.remote.digest:
            self.restart()
            return False
        self._file.flush()
        os.fsync(self._file.fileno())
        self._part.replace(self.place)
        settle(self.place.parent)
        return True

    def _count(self, block: bytes) -> None:
        self._hash.update(block)
        self.size += len(block)


def here(place: Path) -> int:
    """Bytes of a file that are there, whole or not."""
    found = (path for path in (place, place.with_name(place.name + PART)) if path.exists())
    return next((path.stat().st_size for path in found), 0)
