"""A lock of a model: one holder at a time, named to the others, and gone with its process."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from offload.errors import Refused
from offload.lock import lock_of, locked

HOLD = """
import sys
from pathlib import Path
from offload.lock import locked
sys.argv = ["specexec", "pull", "org/name"]
with locked(Path({out!r})):
    print("held", flush=True)
    sys.stdin.read()
"""


def holder(out: Path) -> "subprocess.Popen[str]":
    """A process that holds the lock until its input ends."""
    pipe = subprocess.PIPE
    process = subprocess.Popen([sys.executable, "-c", HOLD.format(out=str(out))], stdin=pipe, stdout=pipe, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_who_comes_second_hears_who_holds_it(tmp_path: Path) -> None:
    out = tmp_path / "models" / "some-nf4"
    process = holder(out)
    for _ in range(2):
        with pytest.raises(Refused) as caught, locked(out):
            pass
        said = rf"another process \({process.pid}: specexec pull org/name, since \d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d\) is at work"
        assert caught.match(said)
        assert caught.value.exit_code == 1
    process.communicate("")
    with locked(out):
        pass
    assert list(out.parent.iterdir()) == []


def test_a_holder_that_is_killed_holds_nothing(tmp_path: Path) -> None:
    process = holder(tmp_path / "out")
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert lock_of(tmp_path / "out").exists()
    with locked(tmp_path / "out"):
        assert str(os.getpid()) in lock_of(tmp_path / "out").read_text()
    assert not lock_of(tmp_path / "out").exists()


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff", b'{"pid": 5}'])
def test_a_holder_that_has_not_said_its_name_yet(content: bytes, tmp_path: Path) -> None:
    with locked(tmp_path / "out"):
        lock_of(tmp_path / "out").write_bytes(content)
        with pytest.raises(Refused, match="another process is at work"), locked(tmp_path / "out"):
            pass


def test_other_models_are_free(tmp_path: Path) -> None:
    with locked(tmp_path / "a"), locked(tmp_path / "b"):
        pass


def test_the_lock_ends_with_an_error(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), locked(tmp_path / "out"):
        raise ZeroDivisionError
    with locked(tmp_path / "out"):
        pass
