"""`specexec config`: every setting, and where its value comes from."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from cli import configuration, render
from cli.group import Group
from cli.option import Option, settings_of
from cli.option import known as known_to
from cli.table import table

HEAD = """# What is set here stands where neither the command line nor the environment says otherwise.
# Each key is an option's long name: specexec config lists them, specexec run --help explains.
#
# model = "bundled"
# temperature = 0.7
# draft = ["auto"]
"""


@click.group(cls=Group, invoke_without_command=True, epilog="Examples: specexec config   |   specexec config edit")
@click.pass_context
def config(context: click.Context) -> int:
    """Show every setting, and where its value comes from.

    The command line comes before the environment, that before the configuration file, that before the model's own.
    """
    if context.invoked_subcommand is None:
        render.write(table((("SETTING", "VALUE", "FROM"), *_rows(context))))
        for name in _unknown(context):
            render.note(f"{name} is no setting")
    return 0


@config.command(epilog="Examples: specexec config path   |   cat $(specexec config path)")
def path() -> int:
    """Print where the configuration file is, or would be."""
    render.write(f"{click.format_filename(configuration.path())}\n")
    return 0


@config.command(epilog="Examples: specexec config edit   |   EDITOR=nano specexec config edit")
@click.pass_context
def edit(context: click.Context) -> int:
    """Open the configuration file in $VISUAL or $EDITOR.

    What was written is checked.
    """
    file = configuration.path()
    if not file.exists():
        _begin(file)
    click.edit(filename=str(file))
    settings_of(context)
    return 0


def _begin(file: Path) -> None:
    from specexec.errors import WrongUsage

    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(HEAD, encoding="utf-8")
    except OSError as error:
        raise WrongUsage(f"{file} cannot be written: {error.strerror}.",
                         hint="SPECEXEC_CONFIG=FILE, in a folder that can be written") from error


def _rows(context: click.Context) -> Iterator[tuple[str, str, str]]:
    root = context.find_root()
    for key, option in sorted(known_to(root.command).items()):
        if key == option.key:
            command = next(of for of in _commands(root) if option in of.params)
            asked = click.Context(command, parent=root, info_name=command.name)
            option.handle_parse_result(asked, {}, [])
            value = asked.params.get(str(option.name))
            yield key, _shown(value) or "-", _source(option, asked) if _shown(value) else "not set"


def _commands(root: click.Context) -> list[click.Command]:
    return list(root.command.commands.values()) if isinstance(root.command, click.Group) else []


def _source(option: Option, asked: click.Context) -> str:
    default = asked.get_parameter_source(str(option.name)) is ParameterSource.DEFAULT
    return "default" if default else option.get_error_hint(asked)


def _shown(value: Any) -> str:
    """"" for nothing, in whichever way click says it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return ", ".join(map(str, value))
    return str(value) if isinstance(value, str | int | float) else ""


def _unknown(context: click.Context) -> list[str]:
    """Variables that look like settings of ours, and are none."""
    variables = {name for option in known_to(context.find_root().command).values() for name in option.variables}
    ours = {f"SPECEXEC_{name}" for name in ("HOME", "CONFIG", "DEBUG", "KERNELS", "REQUIRE_KERNELS", "TEST_DATA")}
    return sorted(name for name in os.environ if name.startswith("SPECEXEC_") and name not in variables | ours)
