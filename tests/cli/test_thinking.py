"""Reasoning models and templates: what is thought, where it is shown, what is kept of it."""

import importlib.resources
import json
import re
import shutil
from pathlib import Path

import pytest

from cli.page import Plain
from cli.reply import Reply
from tests.cli.conftest import Specexec
from tests.cli.terminal import CHAT, terminal
from tests.cli.test_errors import assert_two_lines

THINKS = ("{{ bos_token }}{% for m in messages %}{{ m.role }}: "
          "{% if m.role == 'assistant' and not loop.last %}{{ m.content.split('</think>')[-1].lstrip('\\n') }}"
          "{% else %}{{ m.content }}{% endif %}\n{% endfor %}{% if add_generation_prompt %}assistant: "
          "{% if enable_thinking is defined and enable_thinking %}<think>\n{% endif %}{% endif %}")


@pytest.fixture(scope="module")
def thinker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundled model with a template that can open thoughts, which the model never closes by itself."""
    bundled = Path(str(importlib.resources.files("specexec.bundled") / "target"))
    folder = Path(shutil.copytree(bundled, tmp_path_factory.mktemp("models") / "thinker"))
    (folder / "chat_template.jinja").write_text(THINKS)
    return folder


def asked(thinker: Path, specexec: Specexec, *given: str, stdin: bytes) -> tuple[str, str]:
    ran = specexec("chat", "-m", str(thinker), "--no-save", "-n", "10", "--temperature", "0", *given, stdin=stdin)
    assert ran.code == 0
    return ran.out, ran.err


def test_thoughts_are_not_in_a_pipe(thinker: Path, specexec: Specexec) -> None:
    silent, err = asked(thinker, specexec, "--think", stdin=b"Once upon a time\n")
    assert (silent, "continues one text" in err) == ("\n", False)
    spoken, _ = asked(thinker, specexec, "--no-think", stdin=b"Once upon a time\n")
    assert spoken.strip()
    both = b"/set think on\nOnce\n/set think off\n/clear\nOnce upon a time\n"
    assert asked(thinker, specexec, stdin=both)[0] == "\n" + spoken


def test_run_leaves_thoughts_out_too(thinker: Path, specexec: Specexec) -> None:
    given = ("run", "-m", str(thinker), "-n", "10", "--temperature", "0", "Once upon a time")
    assert specexec(*given, "--think").out == "\n"
    assert specexec(*given).out.strip()
    assert json.loads(specexec(*given, "--think", "--json").out)["text"].strip()


def test_what_was_thought_is_not_in_the_next_prompt(thinker: Path, specexec: Specexec, tmp_path: Path) -> None:
    file = tmp_path / "talk.jsonl"
    asked(thinker, specexec, stdin=b"Once\n/edit answer <think> secret </think> The dog\nAnd\n/save " + bytes(file) + b"\n")
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert "secret" in lines[2]["content"]
    assert lines[3]["base"] != lines[1]["ids"] + lines[2]["ids"]
    assert len(lines[3]["base"]) < len(lines[1]["ids"] + lines[2]["ids"])
    again, _ = asked(thinker, specexec, stdin=f"/load {file}\n/undo\n/regen\n".encode())
    assert again.strip()


def test_a_template_that_cannot_be_asked_is_told_of(specexec: Specexec) -> None:
    ran = specexec("run", "--think", "Once")
    assert ran.code == 2
    assert_two_lines(ran.err, "--think", "no chat template")


def test_on_a_terminal_thoughts_are_dim_and_hidden_by_r(thinker: Path, tmp_path: Path) -> None:
    given = (*CHAT, "-m", str(thinker), "--no-save", "-n", "10", "--temperature", "0", "--no-stats", "--think")
    with terminal(tmp_path, *given, XDG_STATE_HOME=str(tmp_path)) as at:
        at.prompts(1)
        at.say("Once upon a time")
        shown = at.prompts(2)
        assert shown.split("a time\n")[1].split("\n>>>")[0].strip()
        at.say("/set think off")
        at.prompts(3)
        at.say("/clear")
        at.prompts(4)
        at.say("**Once**")
        at.prompts(5)
        at.keys("C-d")
        at.until("code=0")
    assert "\x1b[2m" in at.log.read_text().split("Once upon a time")[-1]


def test_without_colour_thoughts_stand_between_their_marks(thinker: Path, tmp_path: Path) -> None:
    given = (*CHAT, "-m", str(thinker), "--no-save", "-n", "10", "--temperature", "0", "--no-stats", "--think")
    with terminal(tmp_path, *given, XDG_STATE_HOME=str(tmp_path), NO_COLOR="1") as at:
        at.prompts(1)
        at.say("Once upon a time")
        shown = at.prompts(2)
    assert re.search(r"^>>> Once upon a time\n<think>\n(.+\n)+</think>\n", shown, re.MULTILINE)


def test_hidden_thoughts_are_nowhere(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    for hidden in (True, False):
        reply = Reply(Plain(), hidden=hidden)
        for piece in ("<thi", "nk>hm</think>\n", "\nyes"):
            reply.add(piece)
        reply.end()
        out, err = capsys.readouterr()
        assert (out, "hm" in err) == ("yes\n", not hidden)
