"""The options that a chat has and an answer has not."""

from pathlib import Path

import click

from cli.options import _all, _option

chat_options = _all(
    _option("-f", "--file", "files", multiple=True, type=click.Path(path_type=Path),
            help="Text file to put before the first question; repeatable."),
    click.option("-c", "--continue", "go_on", is_flag=True, help="Go on with the latest chat."),
    click.option("--session", metavar="NAME", help="Go on with the chat of that name, or begin it."),
    _option("--save/--no-save", default=True, help="Keep this chat as it goes; default yes."),
    _option("--history/--no-history", default=True, help="Keep what is typed for the Up key; default yes."),
)
