"""What `--help` says, and that the README's tables say the same."""

import re
import shlex
from pathlib import Path

import click
import pytest

from cli.main import main_group
from tests.cli.conftest import Specexec
from tests.cli.parsing import parsed

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
COMMANDS = {f"{name}": command for name, command in main_group.commands.items()}
EVERY = {**COMMANDS, **{f"{name} {sub}": inner for name, command in COMMANDS.items() if isinstance(command, click.Group)
                        for sub, inner in command.commands.items()}}
WIDTH = 80


def examples(command: click.Command) -> list[str]:
    assert command.epilog is not None
    assert command.epilog.startswith("Examples: ")
    return command.epilog.removeprefix("Examples: ").split("   |   ")


@pytest.mark.parametrize("name", EVERY)
def test_a_command_has_two_examples_that_can_be_typed(name: str) -> None:
    """Each is read as the program would read it, as far as a command line goes."""
    found = examples(EVERY[name])
    assert len(found) == 2
    for example in found:
        typed = re.search(r"specexec (.*?)(\)\"?)?$", example)
        assert typed, example
        first, *rest = shlex.split(typed[1])
        assert first == name.split()[0] or (first, name) == ("chat", "run")
        if not isinstance(COMMANDS[first], click.Group):
            parsed(COMMANDS[first], *rest)


@pytest.mark.parametrize("name", EVERY)
def test_an_option_is_explained_in_one_line(name: str) -> None:
    for param in EVERY[name].params:
        if isinstance(param, click.Option):
            assert param.help, param.name
            assert "\n" not in param.help
            assert len(param.help) <= 100, param.name
            assert param.help.endswith((".", "it")), param.help
            assert param.help[0].isupper() or param.help[0].isdigit() or param.help.split()[0].rstrip(",:").islower()


@pytest.mark.parametrize("name", EVERY)
def test_a_command_is_explained_in_one_line_of_eighty(name: str) -> None:
    """Whole, where click would cut it."""
    first = EVERY[name].get_short_help_str(limit=1000)
    assert first == EVERY[name].get_short_help_str(limit=WIDTH - 6 - max(map(len, COMMANDS)))


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_every_command_answers_both_spellings_of_help(name: str, flag: str, specexec: Specexec) -> None:
    ran = specexec(*name.split(), flag)
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.startswith(f"Usage: specexec {name}")
    assert "Examples: " in ran.out


def test_the_readme_has_a_table_of_the_commands_as_help_has_them() -> None:
    rows = re.findall(r"^\| `specexec ([a-z]+)[^`]*` \| (.*) \|$", README, re.MULTILINE)
    assert rows == [(name, command.get_short_help_str(limit=1000)) for name, command in COMMANDS.items()]


def test_what_the_readme_types_can_be_typed() -> None:
    """Its commands and their options are there, line by line."""
    lines = [line.strip() for block in re.findall(r"^```\w*\n(.*?)^```", README, re.DOTALL | re.MULTILINE)
             for line in block.splitlines() if re.match(r"\s*(\$ |.*\| )?specexec ", line)]
    assert len(lines) > 10
    for line in lines:
        typed = re.sub(r"^.*?specexec |  ?> .*$", "", line, count=2)
        first, *rest = shlex.split(typed, comments=True)
        if first in COMMANDS and not isinstance(COMMANDS[first], click.Group):
            parsed(COMMANDS[first], *rest)
        else:
            assert first in ("--version", "--help") or first in COMMANDS, line


def test_the_readme_names_no_file_that_is_not_there() -> None:
    named = re.findall(r"\]\((?!https?:)([^)#]+)\)", README)
    assert named
    for path in named:
        assert (Path(__file__).parents[2] / path).exists(), path


def test_versions_name_what_figures_depend_on(specexec: Specexec) -> None:
    assert re.match(r"specexec \S+, torch \S+, transformers \S+, device \w+, kernels \w+\n$", specexec("--version").out)
