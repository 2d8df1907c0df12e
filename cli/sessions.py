"""Where the chats of a person are kept: a file each, the latest, one by its name."""

import time
from pathlib import Path

from cli.home import state
from offload.errors import NotHere
from specexec.errors import WrongUsage

SUFFIX = ".jsonl"


def folder() -> Path:
    return state() / "sessions"


def kept() -> list[Path]:
    """All, the latest last."""
    return sorted(folder().glob("*" + SUFFIX), key=lambda path: (path.stat().st_mtime_ns, path.name))


def latest() -> Path:
    """Raises NotHere where there is none."""
    found = kept()
    if not found:
        raise NotHere("no chat has been saved yet.", hint="specexec chat")
    return found[-1]


def named(name: str) -> Path:
    """Whether it is there or not. Raises WrongUsage for what is no name."""
    if not name or name != Path(name).name or name.startswith(".") or "\0" in name:
        raise WrongUsage(f'"{name}" cannot be the name of a session.', hint="--session NAME without slashes")
    return folder() / (name.removesuffix(SUFFIX) + SUFFIX)


def fresh() -> Path:
    """A name that is not there yet: when it began."""
    began, count = time.strftime("%Y-%m-%d-%H%M%S"), 1
    path = folder() / (began + SUFFIX)
    while path.exists():
        count += 1
        path = folder() / f"{began}-{count}{SUFFIX}"
    return path
