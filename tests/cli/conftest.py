"""Commands run inside the test's process, as the entry point runs them."""

import io
import sys
from collections.abc import Callable
from typing import NamedTuple

import pytest

from cli.main import main


class Ran(NamedTuple):
    code: int
    out: str
    err: str


Specexec = Callable[..., Ran]


@pytest.fixture
def specexec(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Specexec:
    """specexec("run", "Once", stdin=b"") -> exit code, stdout, stderr."""

    def run(*arguments: str, stdin: bytes = b"") -> Ran:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin), encoding="utf-8"))
        code = main(arguments)
        found = capsys.readouterr()
        return Ran(code, found.out, found.err)

    return run
