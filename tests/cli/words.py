"""Whether what an error says to type can be typed: its commands and options are there."""

import re

from cli.main import main_group

OPTIONS = {"--help", *(spelling for command in main_group.commands.values() for param in command.params
                       for spelling in (*param.opts, *param.secondary_opts) if spelling.startswith("--"))}
PROSE = {"places", "uses", "maps", "again"}  # words after the program's name, where it is no command
COMMAND = re.compile(r"(?<![\w/.-])specexec ([a-z][a-z-]*)")
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]*[a-z]")


def unknown(hint: str) -> set[str]:
    """The commands and options that `hint` names, and nobody has."""
    commands = set(COMMAND.findall(hint)) - set(main_group.words)
    return (commands | (set(OPTION.findall(hint)) - OPTIONS)) - PROSE


def check_all(err: str) -> None:
    """Every error that stderr got: a chat, and what works on many models, go on after one."""
    lines = err.splitlines()
    for at, line in enumerate(lines):
        if line.startswith("Error: "):
            check("\n".join(lines[at : at + 2]))


def check(err: str) -> None:
    """Two lines at the end of what stderr got, the second of which can be done."""
    *_, error, tried = err.strip().split("\n")
    assert re.fullmatch(r"Error: .*\S.*", error), err
    assert re.fullmatch(r"Try: \S.*", tried), err
    assert not unknown(tried), err
    assert "Traceback" not in err
