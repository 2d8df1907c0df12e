"""A specexec of its own, fed line by line."""

import os
import selectors
import subprocess
import sys
import time
from collections.abc import Mapping
from typing import IO

COMMAND = [sys.executable, "-m", "specexec"]
PATIENCE = 120.0  # seconds


def start(*arguments: str, env: Mapping[str, str] | None = None) -> "subprocess.Popen[bytes]":
    pipe = subprocess.PIPE
    return subprocess.Popen([*COMMAND, *arguments], stdin=pipe, stdout=pipe, stderr=pipe, env=env)


def run(*arguments: str, env: Mapping[str, str] | None = None) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([*COMMAND, *arguments], stdin=subprocess.DEVNULL, capture_output=True, text=True, env=env,
                          timeout=PATIENCE)


def read_until(file: "IO[bytes] | None", wanted: bytes) -> bytes:
    """What a process writes, up to and with `wanted`, or all that is left of it."""
    assert file is not None
    seen, end = b"", time.monotonic() + PATIENCE
    with selectors.DefaultSelector() as selector:
        selector.register(file, selectors.EVENT_READ)
        while wanted not in seen and selector.select(end - time.monotonic()):
            got = os.read(file.fileno(), 1)
            if not got:
                break
            seen += got
    return seen


class Chat:
    """`specexec chat` over pipes, with figures: a line on stderr ends each turn."""

    def __init__(self, *arguments: str, env: Mapping[str, str] | None = None) -> None:
        self.process = start("chat", "--stats", *arguments, env=env)
        head = read_until(self.process.stderr, b"leaves\n")
        assert head.endswith(b"leaves\n"), head

    def say(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line.encode() + b"\n")
        self.process.stdin.flush()

    def ended(self) -> str:
        """What stderr says of the turn: its figures, or two lines of an error."""
        line = read_until(self.process.stderr, b"\n").decode()
        assert line.endswith("\n"), "the turn does not end"
        return line + read_until(self.process.stderr, b"\n").decode() if line.startswith("Error") else line

    def shown(self) -> str:
        """What stdout has by now."""
        assert self.process.stdout is not None
        os.set_blocking(self.process.stdout.fileno(), False)
        found = self.process.stdout.read() or b""
        os.set_blocking(self.process.stdout.fileno(), True)
        return found.decode()

    def turn(self, line: str) -> tuple[str, str]:
        """A question: (its answer, what stderr says of it)."""
        self.say(line)
        told = self.ended()
        return self.shown(), told

    def leave(self) -> tuple[int, str]:
        """(exit code, what was left on stderr)."""
        _, err = self.process.communicate(timeout=PATIENCE)
        return self.process.returncode, err.decode()
