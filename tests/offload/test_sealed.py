"""Files of pieces behind a line: whole or not at all, and no changed byte is believed."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from offload import sealed
from offload.errors import DamagedFiles, Refused
from offload.lock import locked
from offload.sealed import Sealed, opened

FACTS, PIECES = {"of": "nothing", "tokens": [1, 2, 3]}, (b"first", b"", b"second" * 1000)


def write(path: Path, *pieces: bytes) -> None:
    sealed.write(path, FACTS, map(memoryview, pieces or PIECES))


def read(found: Sealed | None, sizes: tuple[int, ...] = tuple(map(len, PIECES))) -> tuple[bytes, ...]:
    places = [bytearray(size) for size in sizes]
    assert found is not None
    found.read(map(memoryview, places))
    return tuple(map(bytes, places))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write(tmp_path / "rows")
    return tmp_path / "rows"


def test_what_was_written_is_read(path: Path) -> None:
    found = opened(path)
    assert found is not None
    assert found.facts == FACTS
    assert read(found) == PIECES
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(path.parent.iterdir()) == [path]


def test_none_is_none_and_another_file_is_refused(tmp_path: Path) -> None:
    assert opened(tmp_path / "rows") is None
    (tmp_path / "empty").touch()
    assert opened(tmp_path / "empty") is None
    (tmp_path / "notes").write_text("mine")
    with pytest.raises(Refused, match="is no file of keys and values"):
        opened(tmp_path / "notes")


def test_every_changed_byte_is_seen(path: Path) -> None:
    content = path.read_bytes()
    ahead = content.index(b"\n") + 20
    for at in (*range(ahead), *range(ahead, len(content), 97), *range(len(content) - 9, len(content))):
        changed = bytearray(content)
        changed[at] ^= 1
        path.write_bytes(changed)
        with pytest.raises((DamagedFiles, Refused)):
            read(opened(path))


@pytest.mark.parametrize("change", [lambda whole: whole[:-1], lambda whole: whole[:300], lambda whole: whole + b"x",
                                    lambda whole: whole[:30], lambda whole: whole.replace(b"rows 1 ", b"rows 2 ")])
def test_so_is_every_other_length(path: Path, change: object) -> None:
    path.write_bytes(change(path.read_bytes()))  # type: ignore[operator]
    with pytest.raises(DamagedFiles):
        read(opened(path))


def test_other_sizes_are_damage(path: Path) -> None:
    for sizes in ((5, 0, 5999), (5, 0, 6001), (6005, 100)):
        with pytest.raises(DamagedFiles):
            read(opened(path), sizes)


def test_what_fails_leaves_the_old_one(path: Path) -> None:
    def pieces() -> Iterator[memoryview]:
        yield memoryview(b"other")
        raise OSError("the disk")

    with pytest.raises(OSError, match="the disk"):
        sealed.write(path, FACTS, pieces())
    assert read(opened(path)) == PIECES
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("pieces", [0, 1, 5])
def test_a_kill_leaves_the_old_one_or_none(path: Path, pieces: int) -> None:
    code = f"""
import os, signal
from pathlib import Path
from offload import sealed

def pieces():
    for _ in range({pieces}):
        yield memoryview(b"x" * 2**20)
    os.kill(os.getpid(), signal.SIGKILL)

for name in ("rows", "new"):
    if not os.fork():
        sealed.write(Path({str(path.parent)!r}) / name, {{}}, pieces())
    assert os.wait()[1] == signal.SIGKILL
"""
    subprocess.run([sys.executable, "-c", code], check=True)
    assert read(opened(path)) == PIECES
    assert opened(path.with_name("new")) is None
    write(path, b"other")
    assert read(opened(path), (5,)) == (b"other",)


def test_two_do_not_write_one(path: Path) -> None:
    with locked(path), pytest.raises(Refused, match="another process"):
        write(path, b"other")
    assert read(opened(path)) == PIECES
