"""The file that keys and values are in: all of it or none, whatever the disk does."""

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from offload.buffer import Buffer
from offload.errors import OffloadError
from offload.kv_file import KvFile
from offload.scratch import Scratch
from offload.writing import NoRoom

PAGE = 4096
Call = Callable[..., int]


def full(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_what_is_written_is_read_however_little_a_call_moves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def short(call: Call) -> Call:
        return lambda file, parts, at: call(file, [parts[0][: PAGE + (100 if len(parts[0]) > 2 * PAGE else 0)]], at)

    scratch, room = Scratch(tmp_path, 64 * PAGE, "less"), Buffer(8 * PAGE)
    plain = scratch._direct(False)
    assert not plain, "a part of a page is moved by plain calls alone"
    wanted = bytes(i * i % 251 for i in range(8 * PAGE))
    room.view[:] = wanted
    with monkeypatch.context() as patch:
        patch.setattr("offload.scratch.os.preadv", short(os.preadv))
        patch.setattr("offload.scratch.os.pwritev", short(os.pwritev))
        scratch.write(room.view, 5 * PAGE)
        room.view[:] = bytes(8 * PAGE)
        scratch.read(room.view, 5 * PAGE)
    assert bytes(room.view) == wanted
    scratch.close()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("call", ["preadv", "pwritev"])
def test_a_disk_that_fails_is_said_with_what_to_type(tmp_path: Path, call: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_: object) -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    scratch, room = Scratch(tmp_path, PAGE, "--kv-place host"), Buffer(PAGE)
    monkeypatch.setattr(f"offload.scratch.os.{call}", failing)
    with pytest.raises(OffloadError, match=f"keys and values in {tmp_path} failed: ") as failed:
        (scratch.read if call == "preadv" else scratch.write)(room.view, 0)
    assert failed.value.hint == "--kv-place host"
    scratch.close()


def test_a_read_that_fails_is_raised_by_the_pass_that_waits_for_it_and_the_next_one_reads_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    file = KvFile(tmp_path, 3, 2, 128, 64)
    rows = torch.arange(3 * 2 * 64 * 64).remainder(251).to(torch.uint8).view(3, 2, -1)
    file.put(64, iter(rows))
    with monkeypatch.context() as patch:
        patch.setattr("offload.scratch.os.preadv", full)
        with pytest.raises(NoRoom), file.layer(0):
            pass
    for index in (0, 1, 2, 0, 2):
        with file.layer(index) as held:
            assert held[:, : 64 * 64].equal(rows[index])
    file.close()


def test_a_disk_without_room_is_told_when_the_file_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NoRoom, match="free; keys and values take"):
        Scratch(tmp_path, 2**60, "less")
    monkeypatch.setattr("offload.scratch.os.posix_fallocate", full, raising=False)
    with pytest.raises(NoRoom):
        Scratch(tmp_path, PAGE, "less")
    with pytest.raises(OffloadError, match="No such file"):
        Scratch(tmp_path / "nowhere", PAGE, "less")
    assert not list(tmp_path.iterdir())


def test_a_kill_leaves_nothing(tmp_path: Path) -> None:
    code = ("import pathlib, sys; from offload.scratch import Scratch; "
            "made = Scratch(pathlib.Path(sys.argv[1]), 2**20, 'less'); print('made', flush=True); sys.stdin.read()")
    given: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], **given) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"made\n"
        process.send_signal(signal.SIGKILL)
    assert not list(tmp_path.iterdir())
