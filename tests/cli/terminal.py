"""A real terminal, driven as a person does: tmux, its keys and its screen."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import pytest

CHAT = (sys.executable, "-m", "specexec", "chat")
PATIENCE = 180.0  # seconds
PASSED_ON = ("PATH", "HOME", "PYTHONPATH", "XDG_STATE_HOME", "LD_PRELOAD", "FAULTS", "FAULTS_WHILE")
_numbers = count()


class Terminal:
    """One command in a tmux of its own. log: every byte the command wrote to it."""

    def __init__(self, *command: str, log: Path, columns: int, lines: int, env: Mapping[str, str]) -> None:
        self.log = log
        self._server = ["tmux", "-u", "-L", f"specexec-{os.getpid()}-{next(_numbers)}", "-f", "/dev/null"]
        kept = {name: os.environ[name] for name in PASSED_ON if name in os.environ} | env
        given = {"TERM": "tmux-256color", "LANG": "C.UTF-8", **kept}
        line = shlex.join(["env", "-i", *(f"{name}={value}" for name, value in given.items()), *command])
        begun = f"{shlex.join([*self._server, 'wait-for', 'logged'])}; {line}; echo code=$?; sleep 600"
        self.tmux("new-session", "-d", "-x", str(columns), "-y", str(lines), begun)
        self.tmux("set", "-g", "history-limit", "20000")
        self.tmux("set", "-g", "set-clipboard", "on")
        self.tmux("set", "-g", "escape-time", "10")
        self.tmux("pipe-pane", "-o", f"cat >> {shlex.quote(str(log))}")
        self.tmux("wait-for", "-S", "logged")  # no key, which a terminal that is slow to be made ready would show

    def tmux(self, *arguments: str) -> str:
        return subprocess.run([*self._server, *arguments], check=True, capture_output=True, text=True).stdout

    def keys(self, *names: str) -> None:
        self.tmux("send-keys", *names)

    def type(self, text: str) -> None:
        self.tmux("send-keys", "-l", text)

    def paste(self, text: str) -> None:
        """As a terminal does that brackets what is pasted."""
        self.tmux("set-buffer", text)
        self.tmux("paste-buffer", "-p")

    def say(self, text: str) -> None:
        self.type(text)
        self.keys("Enter")

    def resize(self, columns: int, lines: int) -> None:
        self.tmux("resize-window", "-x", str(columns), "-y", str(lines))

    def screen(self) -> str:
        """All that was shown, lines that the terminal broke joined again."""
        return re.sub(r" +$", "", self.tmux("capture-pane", "-p", "-J", "-S", "-").rstrip(), flags=re.MULTILINE)

    def visible(self) -> str:
        """What stands there now, row by row."""
        return self.tmux("capture-pane", "-p").rstrip("\n")

    def until(self, wanted: str, look: Callable[[], str] | None = None) -> str:
        """The screen, or what another look gives, once it holds the pattern."""
        end = time.monotonic() + PATIENCE
        while not re.search(wanted, seen := (look or self.screen)(), re.MULTILINE):
            assert time.monotonic() < end, f"no {wanted!r} in:\n{seen}"
            time.sleep(0.05)
        return seen

    def prompts(self, number: int) -> str:
        """The screen, once so many questions could be asked, the last of which waits."""
        return self.until(rf"(?s)\A(.*^>>>){{{number}}}[^\n]*\Z")

    def close(self) -> None:
        subprocess.run([*self._server, "kill-server"], check=False, capture_output=True)


@contextmanager
def terminal(folder: Path, *command: str, columns: int = 80, lines: int = 24, **env: str) -> Iterator[Terminal]:
    """folder: for its log. Skipped without tmux, except in CI, where that fails."""
    if not shutil.which("tmux"):
        (pytest.fail if os.environ.get("CI", "").lower() in ("1", "true") else pytest.skip)("tmux drives the terminal")
    made = Terminal(*command, log=folder / "terminal.log", columns=columns, lines=lines, env=env)
    try:
        yield made
    finally:
        made.close()
