"""No command but pull, plan of what is not here, and verify --repair opens a connection."""

import socket
from pathlib import Path

import pytest

from tests.cli.conftest import Specexec


@pytest.mark.parametrize("command", [
    ("run", "Once", "-n", "3"), ("chat", "--no-save", "-n", "3"), ("list",), ("show", "bundled"), ("verify",), ("config",),
    ("run", "Once", "-m", "Qwen/Qwen2.5-72B-Instruct"), ("show", "Qwen/Qwen2.5-72B-Instruct"), ("rm", "Qwen/Qwen2.5-72B", "-y"),
    ("convert", "Qwen/Qwen2.5-72B-Instruct"), ("run", "Once", "--draft", "Qwen/Qwen2.5-0.5B"), ("completion", "bash"),
])
def test_nobody_is_asked(
    command: tuple[str, ...], specexec: Specexec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a connection")

    monkeypatch.setenv("SPECEXEC_HOME", str(tmp_path))
    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    ran = specexec(*command, stdin=b"Once upon a time\n" if command[0] == "chat" else b"")
    assert ran.code == (4 if any("/" in word for word in command) else 0), ran.err
    assert "connection" not in ran.err


def test_a_connection_would_be_seen(specexec: Specexec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []

    def refuse(*given: object, **_: object) -> None:
        asked.append(given)
        raise OSError("none")

    monkeypatch.setenv("SPECEXEC_HOME", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("offload.patience.time.sleep", lambda seconds: None)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    assert specexec("plan", "Qwen/Qwen2.5-72B-Instruct").code == 4
    assert asked
