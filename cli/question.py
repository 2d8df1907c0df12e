"""What the person asks: argument, option, files, standard input."""

import sys
from collections.abc import Sequence
from pathlib import Path

import click


def read_question(argument: str | None, option: str | None, files: Sequence[Path]) -> str:
    """Piped text first, then files, each under its name, then what was typed; raises UsageError where nothing is asked."""
    if argument is not None and option is not None:
        raise click.UsageError("a prompt is given twice, as an argument and with -p.")
    typed = argument if argument is not None else option
    piped = _piped(wanted=typed == "-")
    attached = [f"{path}:\n{read_text(path)}" for path in files]
    parts = [piped, *attached, "" if typed in (None, "-") else _utf8(typed)]
    question = "\n\n".join(part for part in parts if part)
    if not question.strip():
        raise click.UsageError("the prompt is empty.")
    return question


def _utf8(text: str) -> str:
    """Arguments that are no UTF-8 come with surrogates in them."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise click.UsageError(f"the prompt is not UTF-8 text (character {error.start:,}).") from error
    return text


def _piped(wanted: bool) -> str:
    if sys.stdin is None or (sys.stdin.isatty() and not wanted):
        return ""
    try:
        return sys.stdin.buffer.read().decode("utf-8").removesuffix("\n")
    except UnicodeDecodeError as error:
        raise click.UsageError(f"standard input is not UTF-8 text (byte {error.start:,}).") from error


def read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise click.UsageError(f"{path} is not UTF-8 text (byte {error.start:,}).") from error
    except OSError as error:
        raise click.UsageError(f"{path} cannot be read: {error.strerror}.") from error
