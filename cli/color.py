"""Whether colour is wanted: --color, then NO_COLOR and FORCE_COLOR, then what the terminal is."""

import os
from typing import TextIO

import click

ALWAYS, NEVER, AUTO = CHOICES = ("always", "never", "auto")


def choose(choice: str) -> None:
    """For the rest of this command: --color, or what the environment asks for."""
    asked = {ALWAYS: True, NEVER: False}.get(choice, _environment())
    click.get_current_context().find_root().color = click.get_current_context().color = asked


def coloured(stream: TextIO) -> bool:
    """Whether what is written there may hold colour."""
    context = click.get_current_context(silent=True)
    asked = context.color if context else _environment()
    return stream.isatty() if asked is None else asked


def moves(stream: TextIO) -> bool:
    """Whether it is a terminal where the cursor can be moved."""
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def _environment() -> bool | None:
    if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return False
    return True if os.environ.get("FORCE_COLOR", "0") not in ("", "0") else None
