"""What a conversion is to make, decided before anything is written, and how a person watches it being made."""

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from offload.errors import DamagedFiles
from offload.manifest import Identity
from offload.parts import read

COPIED = ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
          "added_tokens.json", "vocab.json", "merges.txt", "tokenizer.model", "chat_template.jinja", "chat_template.json")
BLOCK = 2**22  # bytes of a copy at a time


class File(Protocol):
    """A file to be made."""

    @property
    def name(self) -> str: ...

    @property
    def nbytes(self) -> int: ...

    def pieces(self, pool: ThreadPoolExecutor) -> Iterator[memoryview | bytes]:
        """All its bytes in order."""


@dataclass(frozen=True)
class Copy:
    """A file kept as it was published."""

    path: Path
    nbytes: int

    @property
    def name(self) -> str:
        return self.path.name

    def pieces(self, pool: ThreadPoolExecutor) -> Iterator[memoryview]:
        for start in range(0, self.nbytes, BLOCK):
            yield memoryview(read(self.path, start, min(BLOCK, self.nbytes - start)))


@dataclass(frozen=True)
class Bytes:
    """A file of this content."""

    name: str
    content: bytes

    @property
    def nbytes(self) -> int:
        return len(self.content)

    def pieces(self, pool: ThreadPoolExecutor) -> Iterator[bytes]:
        yield self.content


@dataclass(frozen=True)
class Blueprint:
    """files: all but the manifest, in order. matrices: as in the manifest.

    check(name): asked when a file has been made, whether what it was made of was sound; raises OffloadError.
    """

    identity: Identity
    matrices: Mapping[str, tuple[int, int]]
    files: tuple[File, ...]
    check: Callable[[str], None]

    @property
    def nbytes(self) -> int:
        return sum(file.nbytes for file in self.files)


def copies(folder: Path) -> Iterator[Copy]:
    """What else of a model's folder is kept: configuration and tokenizer."""
    for name in COPIED:
        path = folder / name
        if path.is_file():
            yield Copy(path, path.stat().st_size)
        elif path.exists():
            raise DamagedFiles(f"{path} is no file.", hint="fetch the model again")


class Watcher(Protocol):
    """Who is told how far the work is, in bytes."""

    def begin(self, total: int, done: int) -> None: ...

    def work(self, here: Mapping[str, int], total: int) -> None:
        """As begin, where an earlier work may go on: these files, of so many bytes, were found whole."""

    def advance(self, what: str, count: int) -> None: ...

    def say(self, text: str) -> None:
        """A line worth keeping."""
