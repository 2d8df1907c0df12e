"""Command lines as the program reads them, without running anything."""

import click

from cli.main import main_group


def parsed(command: click.Command, *arguments: str) -> click.Context:
    """Below the program itself, whose settings commands keep: without it they would answer no -h from then on."""
    program = click.Context(main_group, info_name="specexec", **main_group.context_settings)
    return command.make_context(command.name, list(arguments), parent=program)
