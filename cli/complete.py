"""What a shell completes besides commands and options: models, chats, files, as far as names go."""

from collections.abc import Iterable

import click
from click.shell_completion import CompletionItem

from cli import sessions
from cli.home import folders, ggufs
from cli.name import BUNDLED, is_path

DRAFTS = ("auto", "none", "lookup", "self", "self:3bit", "random")


def models(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    return _matching([BUNDLED, *_here()], incomplete)


def drafts(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    return _matching([*DRAFTS, BUNDLED, *_here()], incomplete)


def _here() -> list[str]:
    return [path.name for path in (*folders(), *ggufs())]


def chats(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    return _matching([path.stem for path in reversed(sessions.kept())], incomplete)


def text(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """@ begins the name of a file."""
    return [CompletionItem(incomplete, type="file")] if incomplete.startswith("@") else []


def _matching(names: Iterable[str], incomplete: str) -> list[CompletionItem]:
    """A path is the shell's to complete; a part of a name is enough, where no name begins so."""
    if is_path(incomplete):
        return [CompletionItem(incomplete, type="dir")]
    return [CompletionItem(name) for name in names if name.casefold().startswith(incomplete.casefold())]
