"""Files read past the page cache, and an embedding by rows: whatever a disk does, it is whole or it is told."""

import errno
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from offload.buffer import Buffer
from offload.direct import PAGE, DirectFile
from offload.embedding import Embedding
from offload.errors import DamagedFiles, OffloadError
from offload.folder import EMBEDDING
from offload.manifest import EMBEDDING as FILE
from offload.piece import Piece
from offload.store import Store
from tests.models import saved
from tests.offload.conversions import make
from tests.offload.test_store import flip

SIZE = 5 * PAGE
Read = Callable[[int, Sequence[memoryview], int], int]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(os.urandom(SIZE))
    return path


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return make(saved("llama"), tmp_path / "store")


def fails(number: int) -> OSError:
    return OSError(number, os.strerror(number))


def reading(monkeypatch: pytest.MonkeyPatch, change: Callable[[Read, int, Sequence[memoryview], int], int]) -> None:
    real = os.preadv
    monkeypatch.setattr(os, "preadv", lambda of, into, at: change(real, of, into, at))


@pytest.mark.parametrize("most", [PAGE, PAGE + 100, 3 * PAGE - 1])
def test_short_reads_are_gone_on_with(file: Path, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole pages are kept of each: the next read must begin on one."""
    starts: list[int] = []

    def short(real: Read, of: int, into: Sequence[memoryview], at: int) -> int:
        starts.append(at)
        got = real(of, into, at)
        into[0][most:] = bytes(max(len(into[0]) - most, 0))
        return min(got, most)

    reading(monkeypatch, short)
    room = Buffer(SIZE)
    assert DirectFile(file).read(room.view)
    assert room.view == file.read_bytes()
    assert all(start % PAGE == 0 for start in starts)


def test_an_end_that_comes_too_soon_is_damage(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def cut(real: Read, of: int, into: Sequence[memoryview], at: int) -> int:
        os.truncate(file, PAGE + 50)
        return real(of, into, at)

    reading(monkeypatch, cut)
    with pytest.raises(DamagedFiles, match=rf"{re.escape(str(file))} ends at byte 4,146"):
        DirectFile(file).read(Buffer(SIZE).view)


@pytest.mark.parametrize("size", [SIZE - PAGE, SIZE + PAGE, 0])
def test_another_length_is_damage(file: Path, size: int) -> None:
    opened = DirectFile(file)
    os.truncate(file, size)
    with pytest.raises(DamagedFiles, match=f"has {size:,} bytes, not {SIZE:,}"):
        opened.read(Buffer(SIZE).view)


def test_a_file_that_vanished_is_told(tmp_path: Path) -> None:
    with pytest.raises(OffloadError, match="cannot be opened: No such file"):
        DirectFile(tmp_path / "nowhere")


def test_no_descriptor_stays_open_where_direct_reads_are_refused(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refused: list[int] = []

    def refuse(real: Read, of: int, into: Sequence[memoryview], at: int) -> int:
        if not refused:
            refused.append(of)
            raise fails(errno.EINVAL)
        return real(of, into, at)

    reading(monkeypatch, refuse)
    opened, room = DirectFile(file), Buffer(SIZE)
    before = len(os.listdir("/dev/fd"))
    assert opened.read(room.view)
    assert opened.why_plain
    assert room.view == file.read_bytes()
    assert len(os.listdir("/dev/fd")) == before


# --- the embedding


def test_rows_are_those_of_the_file(store: Store) -> None:
    embedding = Embedding(Piece.of(store, FILE))
    wanted = load_file(store.path / FILE)[EMBEDDING]
    tokens = [0, 79, 3, 3, *range(80)]
    assert embedding.rows(tokens).equal(wanted[torch.tensor(tokens)])
    assert embedding.rows([]).shape == (0, 48)
    embedding.close()


@pytest.mark.parametrize("token", [-1, 80])
def test_a_row_that_is_not_there_is_no_other_tensor(store: Store, token: int) -> None:
    embedding = Embedding(Piece.of(store, FILE))
    with pytest.raises(DamagedFiles, match=f"{FILE} has no row"):
        embedding.rows([5, token])
    embedding.close()


def test_every_changed_byte_of_an_embedding_is_found_when_it_is_opened(store: Store) -> None:
    path, piece = store.path / FILE, Piece.of(store, FILE)
    for at in range(0, path.stat().st_size, 97):
        flip(path, at, 1 << at % 8)
        with pytest.raises(DamagedFiles, match=FILE):
            Embedding(piece)
        flip(path, at, 1 << at % 8)
    Embedding(piece).close()


def test_a_rows_short_read_and_the_disks_error(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    embedding = Embedding(Piece.of(store, FILE))
    wanted = embedding.rows([7])
    with monkeypatch.context() as patched:
        reading(patched, lambda real, of, into, at: real(of, [into[0][:10]], at))
        assert embedding.rows([7]).equal(wanted)

    def fail(real: Read, of: int, into: Sequence[memoryview], at: int) -> int:
        raise fails(errno.EIO)

    reading(monkeypatch, fail)
    start = embedding._span.start + 7 * 48 * 4
    with pytest.raises(OffloadError, match=f"{FILE} failed at byte {start:,}: Input/output error"):
        embedding.rows([7])
    embedding.close()
