"""How answers leave: whole, as code alone, as JSON lines; colour where it is wanted."""

import json
from pathlib import Path

import click
import pytest

from cli import color
from cli.main import main_group
from cli.outlet import code
from tests.cli import process
from tests.cli.conftest import Specexec

ANSWER = ("run", "Once upon a time", "-n", "20", "--seed", "7")


def test_an_answer_that_does_not_stream_is_the_same(specexec: Specexec) -> None:
    assert specexec(*ANSWER, "--no-stream").out == specexec(*ANSWER).out == specexec(*ANSWER, "-x").out


def test_json_that_streams_is_pieces_and_the_whole_last(specexec: Specexec) -> None:
    *pieces, whole = map(json.loads, specexec(*ANSWER, "--json", "--stream", "--budget", "2").out.splitlines())
    assert len(pieces) > 1
    assert "".join(piece["text"] for piece in pieces) == whole["text"]
    assert whole["tokens"] == 20


@pytest.mark.parametrize(("text", "found"), [
    ("Here:\n```python\nprint(1)\n```\nand\n```\nno\n```\n", "print(1)\n"),
    ("~~~\na\n```\nb\n~~~\n", "a\n```\nb\n"),
    ("```sh\nls", "ls"),
    ("no code, `a` at most", "no code, `a` at most"),
])
def test_the_first_code_block_is_taken(text: str, found: str) -> None:
    assert code(text) == found


@pytest.mark.parametrize(("choice", "variables", "wanted"), [
    ("auto", {}, None), ("auto", {"NO_COLOR": "1"}, False), ("auto", {"NO_COLOR": ""}, None), ("auto", {"TERM": "dumb"}, False),
    ("auto", {"FORCE_COLOR": "1"}, True), ("auto", {"NO_COLOR": "1", "FORCE_COLOR": "1"}, False),
    ("always", {"NO_COLOR": "1"}, True), ("never", {"FORCE_COLOR": "1"}, False),
])
def test_colour_is_for_terminals_unless_said(
    choice: str, variables: dict[str, str], wanted: bool | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"TERM": "xterm", **variables}.items():
        monkeypatch.setenv(name, value)
    with click.Context(main_group) as context:
        color.choose(choice)
        assert context.color is wanted


@pytest.mark.parametrize(("options", "coloured"), [((), False), (("--color", "always"), True)])
def test_pipes_get_no_control_codes_unless_asked_for(specexec: Specexec, options: tuple[str, ...], coloured: bool) -> None:
    ran = specexec(*ANSWER, "--stats", *options)
    assert ("\x1b[" in ran.err) == coloured
    assert "\x1b" not in ran.out


def test_a_file_is_wrapped_in_its_name_and_other_bytes_are_refused_by_it(specexec: Specexec, tmp_path: Path) -> None:
    notes, image = tmp_path / "notes.txt", tmp_path / "cat.png"
    notes.write_text("Lily had a cat.")
    image.write_bytes(b"\x89PNG\r\n")
    wrapped = json.loads(specexec(*ANSWER, "--json", "-f", str(notes)).out)
    typed = json.loads(specexec("run", f"{notes}:\nLily had a cat.\n\nOnce upon a time", *ANSWER[2:], "--json").out)
    assert wrapped["token_ids"] == typed["token_ids"]
    ran = specexec(*ANSWER, "-f", str(image))
    assert (ran.code, ran.err.count("\n")) == (2, 2)
    assert "cat.png is not UTF-8 text (byte 0)" in ran.err


def test_a_system_prompt_may_be_a_file(specexec: Specexec, tmp_path: Path) -> None:
    (tmp_path / "system").write_text("Lily had a cat.")
    asked = (*ANSWER, "--json", "-s")
    typed, read = specexec(*asked, "Lily had a cat."), specexec(*asked, f"@{tmp_path / 'system'}")
    assert json.loads(typed.out)["token_ids"] == json.loads(read.out)["token_ids"]
    assert json.loads(typed.out)["token_ids"] != json.loads(specexec(*ANSWER, "--json").out)["token_ids"]


def test_without_anything_it_helps() -> None:
    ran = process.run()
    assert ran.returncode == 0
    assert "Usage: specexec" in ran.stdout
