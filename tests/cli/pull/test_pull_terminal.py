"""A pull in a real terminal: one line that is rewritten, a question, and Ctrl-C."""

import os
import shlex
import shutil
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.cli.process import COMMAND, PATIENCE
from tests.hub import BUNDLED, Hub

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not shutil.which("tmux"), reason="there is no tmux")]


class Pane:
    """A terminal of 100 columns."""

    def __init__(self) -> None:
        self.socket = f"pull-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        self.tmux("-f", "/dev/null", "new-session", "-d", "-x", "100", "-y", "30", "sh")

    def tmux(self, *arguments: str) -> str:
        return subprocess.run(["tmux", "-L", self.socket, *arguments], capture_output=True, text=True, check=True).stdout

    def type(self, *keys: str) -> None:
        self.tmux("send-keys", *keys)

    def until(self, wanted: Callable[[str], bool]) -> str:
        end = time.monotonic() + PATIENCE
        while not wanted(shown := self.tmux("capture-pane", "-p")):
            assert time.monotonic() < end, shown
            time.sleep(0.05)
        return shown


@pytest.fixture
def pane() -> Iterator[Pane]:
    made = Pane()
    yield made
    made.tmux("kill-server")


def test_a_person_at_a_terminal(hub: Hub, folder: Path, tmp_path: Path, pane: Pane) -> None:
    hub.add("org/Qwen2.5-72B", folder)
    hub.add("Qwen/Qwen2.5-0.5B", BUNDLED / "draft")
    hub.breaks({"match": "/cdn/", "rate": 10**6})
    environment = hub.environment(tmp_path / "home")
    settings = [f"{name}={environment[name]}" for name in ("HF_ENDPOINT", "HF_HOME", "SPECEXEC_HOME", "NO_PROXY", "PYTHONPATH")]
    command = shlex.join(["env", *settings, *COMMAND, "pull", "org/Qwen2.5-72B"])
    pane.type(command + "; echo exit $?", "Enter")
    pane.until(lambda text: "Fetch Qwen/Qwen2.5-0.5B too, which makes it faster by drafting? [Y/n]" in text.replace("\n", " "))
    pane.type("n", "Enter")
    shown = pane.until(lambda text: "MB/s" in text and "layer " in text)
    assert shown.count("MB/s") == 1
    line = next(line for line in shown.splitlines() if "MB/s" in line)
    assert line.startswith("Qwen2.5-72B-nf4 ")
    assert "▕" in line
    assert "/10." in line
    pane.type("C-c")
    shown = pane.until(lambda text: "exit 130" in text)
    assert "stopped; this goes on: specexec pull org/Qwen2.5-72B" in shown.replace("\n", "")
    hub.breaks()
    pane.type("clear; " + command + "; echo exit $?", "Enter")
    pane.until(lambda text: "[Y/n]" in text)
    pane.type("Enter")
    shown = pane.until(lambda text: "exit 0" in text)
    assert "resuming: " in shown
    assert "\nQwen2.5-72B-nf4\nQwen2.5-0.5B-int8\nexit 0\n" in shown
