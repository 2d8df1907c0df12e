"""A file of pieces of memory behind one line that says what they are: there whole or not at all, believed if checksums fit.

The line is a mark, its own checksum, and JSON; the last eight bytes of the file are the checksum of the pieces (xxh3).
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import xxhash

from offload.errors import DamagedFiles, Refused
from offload.lock import locked
from offload.writing import BLOCK, written

MARK, FORMAT = b"specexec-rows ", b"1 "
LONGEST = 2**26  # bytes of the line
PRIVATE = 0o600  # what a person read and wrote can be found in it
ANOTHER = "another file"

Facts = Mapping[str, Any]


@dataclass(frozen=True)
class Sealed:
    """One that is there. start: of its pieces."""

    path: Path
    facts: Facts
    start: int

    def read(self, places: Iterable[memoryview]) -> None:
        """Fills the places in order. Raises DamagedFiles where they are not what was written, and OSError."""
        digest = xxhash.xxh3_64()
        with self.path.open("rb") as file:
            file.seek(self.start)
            for place in places:
                for at in range(0, len(place), BLOCK):
                    part = place[at : at + BLOCK]
                    if file.readinto(part) < len(part):
                        raise self._damaged("ends too soon")
                    digest.update(part)
            if file.read(digest.digest_size) != digest.digest() or file.read(1):
                raise self._damaged("differs from its checksum")

    def _damaged(self, how: str) -> DamagedFiles:
        return DamagedFiles(f"{self.path} {how}.", hint=ANOTHER)


def opened(path: Path) -> Sealed | None:
    """The file, its line believed, its pieces not yet; None where there is none.

    Raises Refused for a file of something else, DamagedFiles for a line that is broken or of another version, and OSError.
    """
    try:
        with path.open("rb") as file:
            return _opened(path, file)
    except FileNotFoundError:
        return None


def _opened(path: Path, file: BinaryIO) -> Sealed | None:
    line = file.readline(LONGEST)
    if not line.startswith(MARK):
        if not line:
            return None
        raise Refused(f"{path} is there already, and is no file of keys and values.", hint=ANOTHER)
    checksum, _, text = line.removeprefix(MARK + FORMAT).rstrip(b"\n").partition(b" ")
    if xxhash.xxh3_64_hexdigest(text).encode() != checksum:
        raise DamagedFiles(f"the first line of {path} is damaged, or of another version.", hint=ANOTHER)
    return Sealed(path, json.loads(text), len(line))


def write(path: Path, facts: Facts, pieces: Iterable[memoryview]) -> None:
    """The file at `path`, in place of an earlier one, on the disk when this returns.

    Raises Refused where another process writes it, OSError, and what `pieces` raise; the earlier one then stays.
    """
    with locked(path), written(path, PRIVATE) as file:
        _write(file, facts, pieces)


def _write(file: BinaryIO, facts: Facts, pieces: Iterable[memoryview]) -> None:
    text, digest = json.dumps(facts, separators=(",", ":")).encode(), xxhash.xxh3_64()
    file.write(MARK + FORMAT + xxhash.xxh3_64_hexdigest(text).encode() + b" " + text + b"\n")
    for piece in pieces:
        digest.update(piece)
        file.write(piece)
    file.write(digest.digest())
