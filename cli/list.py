"""`specexec list`: the models that are here, and the chats that were saved."""

import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cli import options as table
from cli.option import act

if TYPE_CHECKING:  # torch is loaded when a command runs, not when it is named
    from cli.shelf import Shelved


@click.command("list", epilog="Examples: specexec list   |   specexec list --sessions")
@act("--sessions", is_flag=True, help="Saved chats instead of models.")
@act("--json", "as_json", is_flag=True, help="One JSON object a line.")
@table.quiet_option
def list_(sessions: bool, as_json: bool, quiet: bool) -> int:
    """List the models that are here.

    Whole ones: what is damaged or unfinished is told on stderr.
    """
    from cli import render
    from cli.table import table

    rows = list(_sessions() if sessions else _models(quiet))
    if as_json:
        render.write("".join(json.dumps(row) + "\n" for row in rows))
    elif rows:
        render.write(table([[name.upper() for name in rows[0]], *([_shown(cell) for cell in row.values()] for row in rows)]))
    if not sessions:
        _leftovers(quiet)
    elif not rows:
        render.note("no saved chats: specexec chat saves them as it goes", quiet)
    return 0


def _models(quiet: bool) -> Iterator[dict[str, str | int]]:
    from cli import render
    from cli.home import folders, ggufs
    from cli.shelf import opened
    from offload.errors import OffloadError

    yield {"name": "bundled", "format": "bf16", "size": _bundled_bytes(), "source": "with specexec"}
    for path in folders():
        try:
            yield _row(opened(path))
        except OffloadError as error:
            render.note(f"{error} It is not listed; specexec verify {path.name} says more.", quiet)
    if files := ggufs():
        yield from _files(files, quiet)


def _files(paths: Sequence[Path], quiet: bool) -> Iterator[dict[str, str | int]]:
    from cli import render
    from offload.errors import OffloadError
    from offload.gguf import Gguf

    for path in paths:
        try:
            file = Gguf(path)
            form = next(iter(file.bytes_by_kind), "")
            yield {"name": path.name, "format": form, "size": file.nbytes, "source": "GGUF file"}
        except OffloadError as error:
            render.note(f"{error} It is not listed.", quiet)


def _row(of: "Shelved") -> dict[str, str | int]:
    identity = of.identity
    source = identity.source + (f"@{identity.revision[:12]}" if identity.revision else "")
    return {"name": of.name, "format": identity.quantisation, "size": of.nbytes, "source": source}


def _bundled_bytes() -> int:
    from cli.find import find

    return sum(file.stat().st_size for role in ("target", "draft") for file in find("bundled", role).iterdir())


def _shown(cell: str | int) -> str:
    from offload.size import size

    return size(cell) if isinstance(cell, int) else cell


def _leftovers(quiet: bool) -> None:
    from cli import render
    from cli.home import models
    from offload.removal import leftovers
    from offload.size import size

    for left in leftovers(models()):
        render.note(f"{left.path.name}: unfinished, {size(left.nbytes)}. The same command goes on with it;"
                    " specexec rm --partial removes it.", quiet)


def _sessions() -> Iterator[dict[str, str | int]]:
    from cli.sessions import kept

    for path in reversed(kept()):
        changed = time.strftime("%Y-%m-%d %H:%M", time.localtime(path.stat().st_mtime))
        yield {"name": path.stem, "changed": changed, "size": path.stat().st_size}
