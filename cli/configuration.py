"""The configuration file: one flat TOML table, whose keys are the long names of options."""

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import platformdirs

from specexec.errors import WrongUsage

EDIT = "specexec config edit"
Known = Mapping[str, tuple[str, bool]]
"""Every spelling of a key: (the key itself, whether it takes several values)."""


@dataclass(frozen=True)
class Setting:
    """value: as it would stand on the command line; place: file, line and key, for errors."""

    value: str | tuple[str, ...]
    place: str


def path() -> Path:
    """SPECEXEC_CONFIG, else the user's configuration folder."""
    named = os.environ.get("SPECEXEC_CONFIG")
    return Path(named).expanduser() if named else platformdirs.user_config_path("specexec", appauthor=False) / "config.toml"


def read(known: Known) -> Mapping[str, Setting]:
    """The file's settings by their keys. Raises WrongUsage, naming the line, for whatever is not as it should be."""
    text = _text(path())
    try:
        found = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise WrongUsage(f"{path()}: {error}.", hint=EDIT) from error
    settings: dict[str, Setting] = {}
    for name, line in _lines(text).items():
        key, several = _key(name, line, known)
        place = f"{path()} line {line}, {name}"
        if key in settings:
            raise WrongUsage(f"{place}: {settings[key].place} sets the same option.", hint=EDIT)
        settings[key] = Setting(_value(found[name], several, place), place)
    return settings


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        if os.environ.get("SPECEXEC_CONFIG"):
            raise WrongUsage(f"SPECEXEC_CONFIG: there is no {file}.", hint=EDIT) from error
        return ""
    except (OSError, UnicodeDecodeError) as error:
        raise WrongUsage(f"{file} cannot be read: {error}.", hint="specexec config path names it") from error


def _key(name: str, line: int, known: Known) -> tuple[str, bool]:
    if found := known.get(name.replace("_", "-")):
        return found
    near = get_close_matches(name, known, n=1)
    hint = f'{EDIT}, and write "{near[0]}"' if near else f"specexec config lists every key; {EDIT}"
    raise WrongUsage(f'{path()} line {line}: there is no option "{name}".', hint=hint)


def _value(found: Any, several: bool, place: str) -> str | tuple[str, ...]:
    if several:
        return tuple(_scalar(value, place) for value in (found if isinstance(found, list) else [found]))
    return _scalar(found, place)


def _scalar(found: Any, place: str) -> str:
    """As on the command line, so that one rule reads both."""
    if isinstance(found, list | dict):
        raise WrongUsage(f"{place}: one value is wanted.", hint=EDIT)
    return str(found)


def _lines(text: str) -> dict[str, int]:
    """Where each key begins: behind the longest beginning of the file that can be read without it."""
    rows, found, begins = text.splitlines(), dict[str, int](), 1
    for count in range(1, len(rows) + 1):
        try:
            keys = tomllib.loads("\n".join(rows[:count]) + "\n").keys()
        except tomllib.TOMLDecodeError:
            continue  # within a value of several lines
        found.update(dict.fromkeys(keys - found.keys(), begins))
        begins = count + 1
    return found
