"""Whether colour is written: --color, then NO_COLOR and FORCE_COLOR (no-color.org), then whether a terminal reads it."""

import os

import click

CHOICES = ("auto", "always", "never")


def wanted(choice: str) -> bool | None:
    """None: where a terminal reads it."""
    if choice != "auto":
        return choice == "always"
    if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return False
    return True if os.environ.get("FORCE_COLOR") else None


def take(context: click.Context, param: click.Parameter, choice: str) -> str:
    """For all that the command writes from here on."""
    context.color = wanted(choice)
    return choice
