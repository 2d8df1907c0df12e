"""Settings: command line, environment, file, in falling precedence; what is wrong in any of them is named, never ignored."""

import json
import os
from pathlib import Path

import click
import pytest

from cli import configuration, home, sessions
from cli.main import main_group
from cli.option import Option, known
from tests.cli import process
from tests.cli.conftest import Specexec
from tests.cli.parsing import parsed

ANSWER = ("run", "Once", "-n", "3", "--json")


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "config.toml"
    path.write_text("")
    monkeypatch.setenv("SPECEXEC_CONFIG", str(path))
    return path


def seed(specexec: Specexec, *arguments: str) -> int:
    found: int = json.loads(specexec(*ANSWER, *arguments).out)["seed"]
    return found


def test_the_closer_to_the_person_the_stronger(specexec: Specexec, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text("seed = 1\n")
    assert seed(specexec) == 1
    monkeypatch.setenv("SPECEXEC_SEED", "2")
    assert seed(specexec) == 2
    assert seed(specexec, "--seed", "3") == 3


def test_the_file_comes_before_the_models_own_defaults(specexec: Specexec, file: Path) -> None:
    file.write_text('temp = 0.25\ndraft = ["lookup"]\nmax_tokens = 2\n')
    found = json.loads(specexec("run", "Once", "--json").out)
    assert (found["temperature"], found["tokens"]) == (0.25, 2)


def test_a_setting_of_one_command_says_nothing_to_another(specexec: Specexec, file: Path) -> None:
    """max-tokens is a setting of answers; bench has its own -n, which is of the one call."""
    file.write_text("max-tokens = 7\n")
    assert parsed(main_group.commands["bench"]).params["max_tokens"] == 128
    assert parsed(main_group.commands["run"], "x").params["max_tokens"] == 7


WRONG = [
    ('model = "x"\n\ntemprature = 1\n', "line 3", 'no option "temprature"', 'specexec config edit, and write "temperature"'),
    ("# one\n[chat]\ntemperature = 1\n", "line 2", 'no option "chat"', "specexec config"),
    ("xyzzy = 1\n", "line 1", 'no option "xyzzy"', "specexec config"),
    ("prompt = 'x'\n", "line 1", 'no option "prompt"', "specexec config"),
    ('\ntemperature = "warm"\n', "line 2, temperature", "'warm'", "specexec config edit"),
    ("temperature = true\n", "line 1, temperature", "'True'", "specexec config edit"),
    ("top-p = 7\n", "line 1, top-p", "7", "specexec config edit"),
    ("seed = [1, 2]\n", "line 1, seed", "one value", "specexec config edit"),
    ("seed = 1\ntemp = 1\ntemperature = 2\n", "line 3, temperature", "line 2, temp sets the same", "specexec config edit"),
    ("seed = 1\nseed =\n", "line 2", "Invalid value", "specexec config edit"),
    ('quiet = "maybe"\n', "line 1, quiet", "maybe", "specexec config edit"),
    ("draft = [\n 'none',\n # why\n ['x'],\n]\n", "line 1, draft", "one value", "specexec config edit"),
]


@pytest.mark.parametrize(("text", "place", "what", "hint"), WRONG)
def test_what_is_wrong_in_the_file_is_named_with_its_line(
    text: str, place: str, what: str, hint: str, specexec: Specexec, file: Path
) -> None:
    file.write_text(text)
    ran = specexec("run", "x")
    assert (ran.code, ran.out, ran.err.count("\n")) == (2, "", 2)
    error, tried = ran.err.splitlines()
    assert str(file) in error
    assert place in error
    assert what in error
    assert tried.startswith(f"Try: {hint}")


def test_a_file_that_is_no_text_or_not_there_is_named(specexec: Specexec, file: Path) -> None:
    file.write_bytes(b"seed = '\xff'")
    assert "cannot be read" in specexec("run", "x").err
    file.unlink()
    ran = specexec("run", "x")
    assert (ran.code, "SPECEXEC_CONFIG" in ran.err) == (2, True)


def test_help_and_repair_work_with_a_broken_file(specexec: Specexec, file: Path) -> None:
    file.write_text("broken")
    assert specexec("run", "--help").code == 0
    assert specexec("config", "path").out == f"{file}\n"
    assert specexec("completion", "bash").code == 0


@pytest.mark.parametrize(("variable", "value"), [
    ("SPECEXEC_BUDGET", "many"), ("SPECEXEC_TEMPERATURE", "warm"), ("SPECEXEC_TEMP", "nan"), ("SPECEXEC_QUIET", "maybe"),
    ("SPECEXEC_RAM", "much"), ("SPECEXEC_DEVICE", "tpu"), ("SPECEXEC_CTX_SIZE", "1"), ("SPECEXEC_NUM_CTX", "-1"),
])
def test_a_bad_variable_is_named_and_never_ignored(
    variable: str, value: str, specexec: Specexec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)
    ran = specexec("run", "x")
    assert (ran.code, ran.err.count("\n")) == (2, 2)
    assert variable in ran.err.splitlines()[0]
    assert f"unset {variable}" in ran.err.splitlines()[1]


@pytest.mark.parametrize(("variable", "arguments"), [
    ("SPECEXEC_HOME", ("list",)), ("SPECEXEC_HOME", ("convert", "bundled")), ("SPECEXEC_CONFIG", ("run", "x")),
    ("SPECEXEC_KERNELS", ("run", "x", "--quant", "nf4")),
])
def test_so_is_one_that_is_no_option(variable: str, arguments: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("broken")
    ran = process.run(*arguments, env={**os.environ, variable: str(tmp_path / "file")})
    assert ran.returncode in (1, 2)
    assert ran.stderr.count("\n") == 2
    assert variable in ran.stderr or str(tmp_path / "file") in ran.stderr


def test_everything_has_its_place_and_one_variable_moves_models(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("DATA", "CACHE", "STATE", "CONFIG"):
        monkeypatch.setenv(f"XDG_{name}_HOME", str(tmp_path / name.lower()))
    for name in ("SPECEXEC_HOME", "SPECEXEC_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    assert home.models() == tmp_path / "data" / "specexec" / "models"
    assert home.machine() == tmp_path / "cache" / "specexec" / "machine.json"
    assert sessions.folder() == tmp_path / "state" / "specexec" / "sessions"
    assert configuration.path() == tmp_path / "config" / "specexec" / "config.toml"
    monkeypatch.setenv("SPECEXEC_HOME", str(tmp_path / "moved"))
    assert home.models() == tmp_path / "moved" / "models"
    assert home.machine() == tmp_path / "moved" / "machine.json"


@pytest.mark.parametrize("key", sorted({option.key for option in known(main_group).values()}))
def test_every_setting_has_a_variable_of_its_name(key: str) -> None:
    option = known(main_group)[key]
    assert option.variables[0] == "SPECEXEC_" + key.replace("-", "_").upper()


def test_every_shared_option_is_a_setting_or_of_the_one_call() -> None:
    for command in main_group.commands.values():
        for param in command.params:
            assert isinstance(param, Option | click.Argument), f"{command.name} {param.name}"


def test_config_says_where_each_value_comes_from(specexec: Specexec, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text('\ntemp = 0.25\ndraft = ["lookup", "bundled"]\n')
    monkeypatch.setenv("SPECEXEC_SEED", "2")
    monkeypatch.setenv("SPECEXEC_TEMPRATURE", "2")
    ran = specexec("config")
    rows = {line.split()[0]: line.split(maxsplit=1)[1] for line in ran.out.splitlines()}
    assert rows["temperature"].split(maxsplit=1) == ["0.25", f"{file} line 2, temp"]
    assert rows["draft"].startswith("lookup, bundled  ")
    assert rows["seed"].split() == ["2", "SPECEXEC_SEED"]
    assert rows["model"].split() == ["bundled", "default"]
    assert rows["ram"].split() == ["-", "not", "set"]
    assert ran.err == "SPECEXEC_TEMPRATURE is no setting\n"


def test_config_names_what_is_wrong(specexec: Specexec, file: Path) -> None:
    file.write_text("top-p = 7\n")
    ran = specexec("config")
    assert (ran.code, ran.err.count("\n")) == (2, 2)
    assert "line 1, top-p" in ran.err


def test_edit_opens_the_editor_and_checks_what_was_written(tmp_path: Path) -> None:
    file, editor = tmp_path / "new" / "config.toml", tmp_path / "editor"
    editor.write_text('#!/bin/sh\necho "top-p = $VALUE" >> "$1"\n')
    editor.chmod(0o755)
    environment = {**os.environ, "SPECEXEC_CONFIG": str(file), "VISUAL": str(editor)}
    assert process.run("config", "edit", env={**environment, "VALUE": "0.5"}).returncode == 0
    assert "top-p = 0.5" in file.read_text()
    assert process.run("run", "Once", "-n", "1", env=environment).returncode == 0
    ran = process.run("config", "edit", env={**environment, "VALUE": "0.6"})
    assert ran.returncode == 2
    assert ran.stderr.count("\n") == 2


def test_what_config_edit_begins_with_is_a_sound_file(tmp_path: Path, file: Path) -> None:
    from cli.config import HEAD

    file.write_text(HEAD.replace("# ", "", 100).split("explains.\n#\n")[1])
    names = {name: (option.key, option.multiple) for name, option in known(main_group).items()}
    assert configuration.read(names).keys() == {"model", "temperature", "draft"}
