"""What begins with a slash: commands, questions, and what is neither."""

from pathlib import Path

import pytest
from prompt_toolkit.completion import CompleteEvent
from prompt_toolkit.document import Document

from cli.commands import COMMANDS, KNOWN, command_of, help_lines, question_of
from cli.completer import ChatCompleter
from cli.deeds import Deeds
from cli.lines import block_text, open_block
from specexec.errors import WrongUsage
from tests.cli.conftest import Specexec

EXPECTED = ("/help", "/?", "/exit", "/quit", "/bye", "/clear", "/new", "/regen", "/retry", "/undo", "/edit", "/system", "/save",
            "/load", "/file", "/read", "/set", "/stats", "/plan", "/copy")


def test_every_command_people_know_is_there_once_and_done_and_helped_with() -> None:
    assert sorted(EXPECTED) == sorted(KNOWN) == sorted(name for c in COMMANDS for name in (c.name, *c.aliases))
    assert all(callable(getattr(Deeds, command.method)) for command in COMMANDS)
    assert all(any(name in line for line in help_lines()) for name in EXPECTED)


@pytest.mark.parametrize("text", ["quit", "clear", "q", "help", "exit now", "/etc/hosts says no", "/etc/hosts", "//exit",
                                  "a /exit", "/unknown word of mine", "", " /exit", '"""'])
def test_questions(text: str) -> None:
    assert command_of(text) is None


@pytest.mark.parametrize(("text", "method", "rest"), [
    ("/exit", "exit", ""), ("/exit ", "exit", ""), ("/set temp 0.7", "set", "temp 0.7"), ("/system a\nb", "system", "a\nb"),
    ("/file  my file.txt", "file", "my file.txt"), ("/edit answer", "edit", "answer")])
def test_commands(text: str, method: str, rest: str) -> None:
    found = command_of(text)
    assert found
    assert (found[0].method, found[1]) == (method, rest)


@pytest.mark.parametrize(("text", "hint"), [("/exi", "/exit"), ("/sytem", "/system"), ("/zzzz", "/help"), ("/", "/help"),
                                            ("/undo it", "/undo alone"), ("/load", "/load FILE")])
def test_what_cannot_be_names_what_can(text: str, hint: str) -> None:
    with pytest.raises(WrongUsage) as refused:
        command_of(text)
    assert refused.value.hint.startswith(hint)


def test_two_slashes_are_one() -> None:
    assert question_of("//exit") == "/exit"
    assert question_of("a //b") == "a //b"


@pytest.mark.parametrize(("text", "is_open", "inner"), [
    ('"""', True, '"""'), ('"""a', True, '"""a'), ('"""a"""', False, "a"), ('"""\na\n\nb\n"""', False, "a\n\nb"),
    ('say """', False, 'say """'), ('""""""', False, "")])
def test_blocks(text: str, is_open: bool, inner: str) -> None:
    assert (open_block(text), block_text(text)) == (is_open, inner)


def test_settings_are_the_options_own(specexec: Specexec) -> None:
    asked = (b"/set temp 0\n/set parameter top_k 5\n/set --seed 9\n/set n=4\n/set temp 101\n/set tempp 1\n/set budget 5000\n"
             b"/set top_k\n/set stop\n/set stats maybe\n/set think on\n/set\nOnce upon a time\n/stats\n")
    ran = specexec("chat", "--no-save", stdin=asked)
    assert ran.code == 0
    for words in ("temperature is 0.0", "top-k is 5", "seed is 9", "max-tokens is 4", "range 0<=x<=100", 'called "tempp"',
                  "range 0<=x<=1024", "/set top-k VALUE", "neither on nor off", "there is no chat template",
                  "4 tokens,", "session: 1 answers, "):
        assert words in ran.err, words
    assert ran.err.count("Error:") == ran.err.count("Try:") == 7


def test_files_come_before_the_next_question(specexec: Specexec, tmp_path: Path) -> None:
    (tmp_path / "a b.txt").write_text("A story of a dog.")
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    (tmp_path / "long").write_text("dog " * 2000)
    talk = tmp_path / "talk.jsonl"
    asked = "".join(f"/file {tmp_path / name}\n" for name in ("a b.txt", "binary", "long", "missing"))
    ran = specexec("chat", "--no-save", "-n", "5", stdin=f"{asked}Go on\n/save {talk}\n".encode())
    assert ran.err.count("Error:") == ran.err.count("Try:") == 3
    assert "a b.txt, " in ran.err
    assert 'a b.txt:\\nA story of a dog.\\n\\nGo on"' in talk.read_text()


def test_starting_over_keeps_the_system_prompt(specexec: Specexec) -> None:
    asked = b"/system Be brief.\nOnce\n/clear\n/system\n/system -\n/system\n"
    ran = specexec("chat", "--no-save", "-n", "3", stdin=asked)
    assert ran.err.count("Be brief.") == 2
    assert ran.err.count("no system prompt") == 2


def test_the_last_code_block_is_copied_alone(specexec: Specexec, monkeypatch: pytest.MonkeyPatch) -> None:
    copied: list[str] = []
    monkeypatch.setattr("cli.deeds.copy", lambda text: copied.append(text) or "copied")
    answer = "a\n```sh\nls\n```\nor\n```\ndir\n```\n"
    asked = f'Once\n"""/edit answer {answer}"""\n/copy code\n/edit answer no code\n/copy code\n/copy all\n'
    ran = specexec("chat", "--no-save", "-n", "1", stdin=asked.encode())
    assert copied == ["dir\n"]
    assert "has no code block" in ran.err
    assert "only code can be picked out" in ran.err


@pytest.mark.parametrize(("typed", "offered"), [
    ("/re", {"ad ", "gen", "try"}), ("/set tem", {"perature "}), ("/copy c", {"ode"}), ("/edit ", {"answer"}),
    ("/file FOLDER/no", {"tes.txt"}), ("/save FOLDER/no", {"tes.txt"}), ("once /re", set()), ("a\n/re", set()),
    ("/regen x", set()),
])
def test_tab_completes_commands_settings_and_paths(typed: str, offered: set[str], tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    document = Document(typed.replace("FOLDER", str(tmp_path)))
    found = ChatCompleter().get_completions(document, CompleteEvent(completion_requested=True))
    assert {completion.text[-completion.start_position :] for completion in found} == offered


def test_commands_with_nothing_to_work_on_say_so(specexec: Specexec) -> None:
    ran = specexec("chat", "--no-save", stdin=b"/regen\n/undo\n/edit\n/edit answer\n/copy\n/stats\n/system\n")
    assert ran.code == 0
    assert ran.err.count("nothing was asked yet") == 5
    assert "no answer yet" in ran.err
    assert "no system prompt" in ran.err
