"""What `/set` sets: options of the command itself, by any of their spellings, with the same ranges."""

import difflib
from collections.abc import Iterator, Mapping
from typing import Any

import click

from specexec.errors import WrongUsage

SETTABLE = ("temperature", "top_k", "top_p", "min_p", "repeat_penalty", "presence_penalty", "frequency_penalty", "seed",
            "max_tokens", "budget", "stop", "think", "stats", "verbose")
ON, OFF = ("on", "yes", "true", "1"), ("off", "no", "false", "0")


def parameters() -> dict[str, click.Option]:
    """By the names of the parameters."""
    found = {param.name: param for param in click.get_current_context().command.params if isinstance(param, click.Option)}
    return {name: found[name] for name in SETTABLE}


def names() -> list[str]:
    """As they are typed, one for each."""
    return [name.replace("_", "-") for name in SETTABLE]


def assigned(text: str) -> tuple[str, Any]:
    """(parameter, value) of "temp 0.7" or "temp=0.7". Raises WrongUsage for what is unknown or out of range."""
    words = text.replace("=", " ", 1).split(None, 1)
    spelling = words[0].lstrip("-").replace("_", "-")
    param = _find(spelling)
    if len(words) < 2 and not param.is_flag:
        raise WrongUsage(f"/set {spelling}: to what?", hint=f"/set {spelling} VALUE")
    try:
        return str(param.name), _value(param, words[1].strip() if len(words) > 1 else "on")
    except click.UsageError as error:
        raise WrongUsage(f"/set {spelling}: {error.message}", hint="/set, which lists what can be set") from error


def values(given: Mapping[str, Any]) -> Iterator[str]:
    """A line for each: its name, what it is, what it does."""
    for name, param in parameters().items():
        value = given[name]
        shown = "not set" if value is None else ", ".join(map(repr, value)) or "none" if param.multiple else value
        yield f"  {name.replace('_', '-'):18} {shown!s:12} {param.help}"


def _find(spelling: str) -> click.Option:
    spelled = {opt.lstrip("-"): param for param in parameters().values() for opt in (*param.opts, *param.secondary_opts)}
    if spelling not in spelled:
        near = difflib.get_close_matches(spelling, spelled, n=1, cutoff=0.5)
        raise WrongUsage(f'there is nothing called "{spelling}" to set.', hint=f"/set {near[0]} VALUE" if near else "/set")
    return spelled[spelling]


def _value(param: click.Option, text: str) -> Any:
    if param.is_flag:
        if text.lower() not in (*ON, *OFF):
            raise click.UsageError(f"{text} is neither on nor off.")
        return text.lower() in ON
    if text == "default" and not param.multiple:
        return param.get_default(click.get_current_context())
    return param.type_cast_value(click.get_current_context(), (text,) if param.multiple else text)
