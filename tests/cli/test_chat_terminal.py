"""`specexec chat` in a real terminal: keys, prompts, colours, widths."""

import json
import re
from pathlib import Path

import pytest

from cli.build import ModelOptions, open_session
from cli.history import history
from cli.interrupt import Interrupt
from tests.cli.terminal import CHAT, terminal

ESCAPE = "\x1b"


def chats(state: Path) -> list[Path]:
    return sorted((state / "specexec" / "sessions").glob("*.jsonl"))


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def contents(path: Path, role: str) -> list[object]:
    return [line["content"] for line in lines(path) if line.get("role") == role]


def test_a_first_chat(tmp_path: Path) -> None:
    """Questions of one and of many lines, pasted ones, history, completion, regeneration, the screen and the way out."""
    with terminal(tmp_path, *CHAT, "-n", "12", "--seed", "1", "--no-stats", XDG_STATE_HOME=str(tmp_path)) as at:
        assert "bundled with bundled, context 1,024. /help, Ctrl-D leaves\n>>>" in at.prompts(1)
        at.say("Once upon a time")
        at.prompts(2)
        at.type("One line")
        at.keys("M-Enter")
        at.type("and two")
        at.keys("C-j")
        at.say("and three")
        at.prompts(3)
        at.paste("pasted one\npasted two\n")
        at.until(r"^\.\.\. pasted two")
        at.keys("BSpace", "Enter")
        at.prompts(4)
        at.say('"""block')
        at.say("of two")
        at.say('"""')
        at.prompts(5)
        at.say("continued\\")
        at.say("here")
        at.prompts(6)
        at.say("/reg\t")
        at.prompts(7)
        at.keys("Up", "Up")
        at.until(r"^>>> continued\n\.\.\. here\s*\Z")
        at.keys("C-c")
        at.until(r"^>>>\s*\Z")
        at.keys("C-c")
        at.until(r"Ctrl-D or /exit leaves\n>>>\s*\Z")
        at.keys("C-r")
        at.type("upon")
        at.until(r"^>>> Once upon a time\nI-search backward: upon\s*\Z")
        at.keys("C-g", "C-l")
        at.until(r"\A>>>\s*\Z", at.visible)
        at.keys("C-d")
        at.until(r"^code=0")
    (file,) = chats(tmp_path)
    asked = ["Once upon a time", "One line\nand two\nand three", "pasted one\npasted two", "block\nof two", "continued\nhere"]
    assert contents(file, "user") == asked
    answers = contents(file, "assistant")
    assert len(answers) == len(asked) + 1
    assert answers[-1] != answers[-2]
    assert (tmp_path / "specexec" / "history").stat().st_mode & 0o777 == file.stat().st_mode & 0o777 == 0o600
    assert file.parent.stat().st_mode & 0o777 == 0o700


def test_a_chat_that_is_saved_and_loaded_goes_on_as_it_would_have(tmp_path: Path) -> None:
    saved, given = tmp_path / "talk.jsonl", ("-n", "12", "--temperature", "1", "--no-stats")
    with terminal(tmp_path, *CHAT, *given, "--seed", "3", XDG_STATE_HOME=str(tmp_path)) as at:
        at.prompts(1)
        at.say("Once upon a time")
        at.prompts(2)
        at.say(f"/save {saved}")
        at.prompts(3)
        at.say("Then")
        whole = at.prompts(4)
    with terminal(tmp_path, *CHAT, *given, XDG_STATE_HOME=str(tmp_path)) as at:
        at.prompts(1)
        at.say(f"/load {saved}")
        at.until("1 turns from")
        at.prompts(2)
        at.say("Then")
        loaded = at.prompts(3)
    assert loaded.split("\n>>> Then\n")[1] == whole.split("\n>>> Then\n")[1]
    assert len(loaded.split("\n>>> Then\n")[1]) > 10


@pytest.mark.parametrize(("given", "found"), [((), "/set temp 0.1"), (("--no-history",), "")])
def test_lines_of_earlier_chats_are_found_unless_they_are_not_kept(
    given: tuple[str, ...], found: str, tmp_path: Path
) -> None:
    file = tmp_path / "specexec" / "history"
    history(file, print).store_string("/set temp 0.1")
    before = file.read_text()
    with terminal(tmp_path, *CHAT, "--no-save", *given, XDG_STATE_HOME=str(tmp_path)) as at:
        at.prompts(1)
        at.keys("Up")
        at.until(rf"^>>> *{found}\s*\Z")
        at.keys("C-c")
        at.say("/stats")
        at.prompts(2)
        at.keys("C-d")
        at.until("^code=0")
    assert ("/stats" in file.read_text(), file.read_text() == before) == ((False, True) if given else (True, False))


def test_ctrl_c_and_escape_in_mid_answer_keep_what_was_shown(slow_store: tuple[str, ...], slowly: dict[str, str],
                                                             tmp_path: Path) -> None:
    with terminal(tmp_path, *CHAT, *slow_store, "--no-stats", XDG_STATE_HOME=str(tmp_path), **slowly) as at:
        at.prompts(1)
        at.say("Once upon a time")
        at.until(r"^, there")
        at.keys("C-c")
        at.prompts(2)
        at.say("Then Lily said")
        at.until(r"^>>> Then Lily said\n\S+")
        at.type("typed ahead")
        at.keys("Escape")
        at.until(r"^>>> typed ahead\s*\Z")
        at.keys("C-c", "C-d")
        shown = at.until(r"^code=0")
    first, second = contents(chats(tmp_path)[0], "assistant")
    assert f">>> Once upon a time\n{first}\n>>> Then Lily said\n{second}\n>>>" in shown


def test_a_pass_that_takes_long_is_told_of_below_the_text(slow_store: tuple[str, ...], tmp_path: Path,
                                                          very_slowly: dict[str, str]) -> None:
    with terminal(tmp_path, *CHAT, *slow_store, "-n", "2", XDG_STATE_HOME=str(tmp_path), **very_slowly) as at:
        at.prompts(1)
        at.say("Once upon a time")
        at.until(r"^>>> Once upon a time\n\nreading \d+ of 4 tokens .* \d+s")
        at.until(r"^>>> Once upon a time\n,\npass 2, \d+% of layers, 1.0 tokens/pass")
        shown = at.prompts(2)
        assert "reading" not in shown
        assert "% of layers" not in shown


def test_a_long_prompt_leaves_a_line_that_says_how_long_it_took(slow_store: tuple[str, ...], very_slowly: dict[str, str],
                                                               tmp_path: Path) -> None:
    text = tmp_path / "long.txt"
    text.write_text("Once upon a time there was a little dog who lived in a house. " * 40)
    given = (*slow_store, "-n", "2", "--no-stats", "-f", str(text))
    with terminal(tmp_path, *CHAT, *given, XDG_STATE_HOME=str(tmp_path), **very_slowly) as at:
        at.prompts(1)
        at.say("Then")
        at.until(r"^reading \d+ of \d+ tokens ▕█+ *▏ \d+s")
        shown = at.prompts(2)
    assert re.search(r"^>>> Then\n\d+ tokens read in \d+s\n.*\w", shown, re.MULTILINE)
    assert "reading" not in shown


def test_loading_is_a_bar_whose_last_line_stays(bundled_store: Path, very_slowly: dict[str, str], tmp_path: Path) -> None:
    given = ("-m", str(bundled_store), "--draft", "none", "--no-save")
    with terminal(tmp_path, *CHAT, *given, XDG_STATE_HOME=str(tmp_path), **very_slowly) as at:
        at.until(r"^bundled-nf4 +\d+% ▕█+ *▏ \d\.\d/\d\.\d MB  \d+ MB/s  \d+s  loading\Z")
        at.type("typed early")
        shown = at.prompts(1)
        at.until(r"^>>> typed early\s*\Z")
    assert "typed" not in at.log.read_text().split(">>>")[0]
    assert re.match(r"bundled-nf4: \d\.\d MB loaded in \d+s\n(.*\n)*.* /help, Ctrl-D leaves\n>>>", shown)


def test_a_narrow_window_that_changes_without_colour(tmp_path: Path) -> None:
    given = ("-n", "40", "--seed", "1")
    with terminal(tmp_path, *CHAT, *given, columns=30, lines=12, XDG_STATE_HOME=str(tmp_path), NO_COLOR="1") as at:
        at.prompts(1)
        at.say("Once upon a time there was a dog who lived")
        shown = at.prompts(2)
        assert ">>> Once upon a time there was" in shown
        at.resize(50, 20)
        at.say("Then the dog")
        at.until(r"^>>> Then the dog")
        at.until(r"seed 1\n>>>\s*\Z")
        at.say("/help")
        at.until("/regen")
        at.keys("C-d")
        at.until("code=0")
    assert set(re.findall(r"\x1b\[([0-9;]*)m", at.log.read_text())) <= {"", "0"}
    (file,) = chats(tmp_path)
    assert contents(file, "user") == ["Once upon a time there was a dog who lived", "Then the dog"]


def test_answers_into_a_pipe_have_no_control_codes_and_the_prompt_is_not_there(tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = ("sh", "-c", f'"$@" > {out}', "sh", *CHAT, "-n", "6", "--seed", "1")
    with terminal(tmp_path, *command, XDG_STATE_HOME=str(tmp_path)) as at:
        at.prompts(1)
        at.say("Once upon a time")
        at.prompts(2)
        at.keys("C-d")
        at.until("code=0")
    assert out.read_text() == f"{contents(chats(tmp_path)[0], 'assistant')[0]}\n"


def test_editing_what_was_asked_and_answered(tmp_path: Path) -> None:
    editor = tmp_path / "editor"
    editor.write_text("#!/bin/sh\nprintf 'from the editor' > \"$1\"\n")
    editor.chmod(0o755)
    given = ("-n", "8", "--seed", "1", "--no-stats", "--temperature", "0")
    with terminal(tmp_path, *CHAT, *given, XDG_STATE_HOME=str(tmp_path), EDITOR=str(editor)) as at:
        at.prompts(1)
        at.say("Once upon a tame")
        at.prompts(2)
        at.say("/edit")
        at.until(r"^>>> Once upon a tame\s*\Z")
        at.keys("BSpace", "BSpace", "BSpace")
        at.say("ime")
        at.prompts(4)
        at.say("/edit answer")
        at.prompts(5)
        at.keys("C-a", "C-k")
        at.say(", there was a cat")
        at.prompts(6)
        at.say("/edit answer")
        at.prompts(7)
        at.keys("C-c", "C-d")
        at.until("nothing was changed")
        at.prompts(8)
        at.keys("C-x", "C-e")
        at.until(r"^>>> from the editor\s*\Z")
        at.keys("C-c")
        at.say("/copy")
        at.until("characters")
        assert at.tmux("show-buffer").startswith(", there was a cat")
    (file,) = chats(tmp_path)
    assert contents(file, "user") == ["Once upon a tame", "Once upon a time"]
    last = lines(file)[-1]
    session = open_session(ModelOptions(), Interrupt())
    assert str(last["content"]).startswith(", there was a cat")
    assert session.codec.decode(last["ids"]) == last["content"]  # type: ignore[arg-type]


@pytest.mark.parametrize("term", ["dumb"])
def test_a_terminal_that_can_do_no_more_takes_plain_lines(term: str, tmp_path: Path) -> None:
    with terminal(tmp_path, *CHAT, "-n", "6", "--seed", "1", "--no-stats", XDG_STATE_HOME=str(tmp_path), TERM=term) as at:
        at.prompts(1)
        at.say('"""Once')
        at.until(r"^\.\.\.")
        at.say('upon"""')
        at.prompts(2)
        at.keys("C-d")
        at.until("code=0")
    assert ESCAPE not in at.log.read_text()
    assert contents(chats(tmp_path)[0], "user") == ["Once\nupon"]
