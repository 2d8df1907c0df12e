"""Saved chats: the same continuation, files that were cut, damaged, another model's or anybody's."""

import json
import os
import signal
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Specexec
from tests.cli.process import Chat
from tests.cli.test_errors import assert_two_lines

CHAT = ("chat", "-n", "10", "--temperature", "1")
TURNS = b"Once upon a time\n/regen\nThen\n"


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "state" / "specexec" / "sessions"


def files(state: Path) -> list[Path]:
    return sorted(state.glob("*"))


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_chat_that_goes_on_writes_what_it_would_have_written(specexec: Specexec, state: Path) -> None:
    whole = specexec(*CHAT, "--seed", "3", "--no-save", stdin=TURNS + b"And then\n/regen\n/undo\nSo\n")
    assert not files(state)
    first = specexec(*CHAT, "--seed", "3", stdin=TURNS)
    (file,) = files(state)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    second = specexec(*CHAT, "-c", stdin=b"And then\n/regen\n/undo\n")
    third = specexec(*CHAT, "--continue", stdin=b"So\n")
    assert first.out + second.out + third.out == whole.out
    assert files(state) == [file]
    assert [line["answer"] for line in lines(file) if "answer" in line] == list(range(6))
    assert "2 turns" in third.err


def test_saving_and_loading_by_name(specexec: Specexec, state: Path, tmp_path: Path) -> None:
    saved = tmp_path / "talk.jsonl"
    whole = specexec(*CHAT, "--seed", "3", "--session", "fox", stdin=TURNS + f"/save {saved}\nAnd then\n".encode())
    assert files(state) == [state / "fox.jsonl"]
    loaded = specexec(*CHAT, "--seed", "4", "--no-save", stdin=f"/load {saved}\nAnd then\n".encode())
    assert loaded.out.splitlines()[-1] == whole.out.splitlines()[-1]
    assert_two_lines(specexec(*CHAT, stdin=b"/save " + bytes(Path(__file__)) + b"\n").err.split("leaves\n")[1], "no saved chat")
    again = specexec(*CHAT, "--session", "fox", stdin=b"So\n")
    assert "3 turns" in again.err
    assert len([line for line in lines(state / "fox.jsonl") if line.get("role") == "user"]) == 4


def test_settings_and_edits_go_on_too(specexec: Specexec, state: Path) -> None:
    before = b"Once upon a time\n/edit answer , there was a cat\n/edit Once there was\n/system Be brief.\n/clear\nThe dog\n"
    whole = specexec(*CHAT, "--seed", "3", "--no-save", stdin=before + b"And then\n")
    specexec(*CHAT, "--seed", "3", stdin=before)
    assert specexec(*CHAT, "-c", stdin=b"And then\n").out == whole.out.splitlines(keepends=True)[-1]


def test_a_killed_chat_loses_at_most_the_line_it_wrote(specexec: Specexec, state: Path) -> None:
    chat = Chat("-n", "10", "--seed", "3")
    chat.turn("Once upon a time")
    chat.turn("Then")
    chat.process.send_signal(signal.SIGKILL)
    chat.process.communicate()
    (file,) = files(state)
    assert len([line for line in lines(file) if line.get("role") == "assistant"]) == 2
    file.write_bytes(file.read_bytes()[:-20])
    ran = specexec("chat", "-n", "10", "-c", stdin=b"/regen\n")
    assert f"the last line of {file.name} was cut off and is left out" in ran.err
    assert "no answer yet: /regen" in ran.err
    assert [line["answer"] for line in lines(file) if "answer" in line] == [0, 1]


SPOILT: dict[str, Callable[[list[str]], list[str]]] = {
    "is no JSON object": lambda found: [found[0], "{", *found[1:]],
    "has ids": lambda found: [line.replace('"ids": [', '"ids": [-1, ') for line in found],
    "another version": lambda found: [found[0].replace('"specexec": 1', '"specexec": 99'), *found[1:]],
    "has no role": lambda found: [*found, '{"content": "x"}'],
    "cannot be": lambda found: [*found, '{"did": "nonsense"}'],
    "no number": lambda found: [line.replace('"seed": 3', '"seed": "3"') for line in found],
}


@pytest.mark.parametrize("words", SPOILT)
def test_a_damaged_file_is_refused_and_left_alone(words: str, specexec: Specexec, state: Path) -> None:
    specexec(*CHAT, "--seed", "3", stdin=TURNS)
    (file,) = files(state)
    file.write_text("\n".join(SPOILT[words](file.read_text().splitlines())) + "\n")
    before = file.read_bytes()
    ran = specexec(*CHAT, "-c", stdin=b"And then\n")
    assert ran.code == 5
    assert_two_lines(ran.err.split("one text\n")[1], words, "line")
    assert file.read_bytes() == before
    loading = specexec(*CHAT, "--no-save", stdin=f"/load {file}\nOnce upon a time\n".encode())
    assert (loading.code, words in loading.err) == (0, True)
    assert loading.out


def test_another_models_chat_is_tokenised_anew_and_begins_a_file(specexec: Specexec, state: Path, shared: Path) -> None:
    specexec(*CHAT, "--seed", "3", stdin=TURNS)
    (file,) = files(state)
    before = file.read_bytes()
    ran = specexec(*CHAT, "-c", "-m", str(shared / "models" / "stories260k"), stdin=b"And then\n")
    assert (ran.code, "tokenised anew" in ran.err) == (0, True)
    assert file.read_bytes() == before
    other = next(path for path in files(state) if path != file)
    assert [line["content"] for line in lines(other) if line.get("role") == "user"] == ["Once upon a time", "Then", "And then"]


def test_anybodys_messages_are_loaded(specexec: Specexec, tmp_path: Path) -> None:
    file = tmp_path / "messages.jsonl"
    said = [("system", "Be brief."), ("user", "Once upon a time"), ("assistant", "there was a cat"), ("tool", "result")]
    file.write_text("".join(json.dumps({"role": role, "content": text}) + "\n" for role, text in said))
    ran = specexec(*CHAT, "--no-save", stdin=f"/load {file}\n/system\n/regen\n".encode())
    assert "2 turns" in ran.err
    assert "Be brief." in ran.err
    assert ran.out.strip()


def test_a_chat_that_is_open_elsewhere_is_refused(specexec: Specexec, state: Path) -> None:
    chat = Chat("-n", "5", "--session", "fox")
    chat.turn("Once upon a time")
    ran = specexec(*CHAT, "--session", "fox", stdin=b"And then\n")
    assert_two_lines(ran.err.split("one text\n")[1], "fox is open in another chat")
    assert chat.leave()[0] == 0


@pytest.mark.parametrize(("given", "code", "words"), [
    (("-c",), 4, "no chat has been saved"), (("--session", "../x"), 2, "cannot be the name"),
    (("-c", "--session", "x"), 2, "name two chats")])
def test_what_cannot_be_gone_on_with(given: tuple[str, ...], code: int, words: str, specexec: Specexec) -> None:
    ran = specexec("chat", *given)
    assert ran.code == code
    assert_two_lines(ran.err, words)


def test_a_disk_that_takes_no_more_ends_the_saving_alone(specexec: Specexec, state: Path) -> None:
    state.parent.mkdir(parents=True)
    state.write_text("a file where the folder should be")
    ran = specexec(*CHAT, "--seed", "3", stdin=TURNS)
    assert ran.code == 0
    assert ran.err.count("no longer saved") == 1
    assert len(ran.out.splitlines()) >= 3


def test_what_was_never_asked_leaves_no_file(specexec: Specexec, state: Path) -> None:
    specexec(*CHAT, stdin=b"/help\n/exit\n")
    assert not files(state)
    assert os.environ["XDG_STATE_HOME"]
