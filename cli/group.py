"""The commands: their other names, and what is said of a word or an option that belongs to none of them."""

import difflib
from collections.abc import Sequence

import click

from cli.spelling import FOREIGN
from specexec.errors import WrongUsage

ALIASES = {"ls": "list", "remove": "rm", "delete": "rm", "generate": "run", "download": "pull", "get": "pull"}


class Group(click.Group):
    """Its methods raise WrongUsage for unknown commands, and for other tools' options, which are explained."""

    @property
    def words(self) -> list[str]:
        """Everything that a command is called."""
        return [*self.commands, *(alias for alias, name in ALIASES.items() if name in self.commands)]

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order of a person's way, not of the alphabet."""
        return list(self.commands)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        return super().get_command(ctx, name) or super().get_command(ctx, ALIASES.get(name, name))

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            name, command, rest = super().resolve_command(ctx, args)
        except click.exceptions.NoSuchCommand as error:
            near = nearest(args[0], self.words, f"{ctx.command_path} ")
            raise WrongUsage(f'there is no command "{args[0]}".', hint=near or f"{ctx.command_path} --help") from error
        if command and not ctx.resilient_parsing:
            _explain(command, rest)
        return command.name if command else name, command, rest


def _explain(command: click.Command, arguments: Sequence[str]) -> None:
    """Some of them would be read as options of ours otherwise: -st as -s t."""
    own = {spelling for param in command.params for spelling in param.opts}
    options = arguments[: arguments.index("--")] if "--" in arguments else arguments
    for argument in options:
        spelling = argument.partition("=")[0]
        if spelling in FOREIGN and spelling not in own:
            raise WrongUsage(f"there is no option {spelling}.", hint=FOREIGN[spelling])


def nearest(name: str, names: Sequence[str], before: str = "") -> str | None:
    found = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return before + found[0] if found else None
