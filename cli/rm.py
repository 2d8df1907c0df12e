"""`specexec rm`: models go, and what interrupted work left."""

import sys
from collections.abc import Sequence
from pathlib import Path

import click

from cli import complete
from cli import options as table
from cli.option import act


@click.command(epilog="Examples: specexec rm Llama-3.2-3B-nf4   |   specexec rm --partial -y")
@click.argument("names", metavar="[MODEL]...", nargs=-1, shell_complete=complete.models)
@act("--partial", is_flag=True, help="What interrupted conversions and downloads left.")
@act("-y", "--yes", is_flag=True, help="Without asking.")
@table.quiet_option
def rm(names: Sequence[str], partial: bool, yes: bool, quiet: bool) -> int:
    """Remove converted models, after saying what that frees.

    What they were converted from stays where it is.
    """
    from specexec.errors import WrongUsage

    if partial and names:
        raise WrongUsage("--partial and names of models contradict each other.", hint="specexec rm --partial")
    if partial:
        return _remove_leftovers(yes, quiet)
    if not names:
        raise WrongUsage("no model is named.", hint="specexec list shows what is here; specexec rm NAME")
    return _remove(list(dict.fromkeys(_removable(name) for name in names)), yes, quiet)


def _removable(name: str) -> Path:
    """Raises NotHere, Refused for what specexec did not make, or DamagedFiles where, elsewhere, that cannot be told."""
    from cli.find import find
    from cli.home import models
    from cli.name import BUNDLED
    from offload.errors import NotHere, Refused
    from offload.manifest import is_store
    from offload.removal import check_ours

    path = find(name, "target")
    if name == BUNDLED:
        raise Refused("the bundled pair belongs to the program.", hint="specexec list shows what can be removed")
    if not path.exists():
        raise NotHere(f"there is no folder {path}.", hint="specexec list shows what is here")
    if not is_store(path):
        raise Refused(f"{path} is not of specexec's making.", hint=f"rm -r {path}, if that is what you want")
    if path.parent != models():
        check_ours(path)
    return path


def _remove(paths: Sequence[Path], yes: bool, quiet: bool) -> int:
    from cli import render
    from offload import removal
    from offload.size import size

    freed = {path: size(removal.disk_bytes(path)) for path in paths}
    if not _agreed(", ".join(f"{path.name} ({freed[path]})" for path in paths), yes):
        return 1
    for path in paths:
        removal.remove(path)
        render.note(f"{path.name} is removed: {freed[path]} free", quiet)
    return 0


def _remove_leftovers(yes: bool, quiet: bool) -> int:
    from cli import render
    from cli.home import models
    from offload import removal
    from offload.errors import OffloadError
    from offload.size import size

    found, failed = removal.leftovers(models()), 0
    if not found:
        render.note("nothing is left of interrupted work", quiet)
        return 0
    if not _agreed(", ".join(f"{left.path.name} ({size(left.nbytes)})" for left in found), yes):
        return 1
    for left in found:
        try:
            removal.clear(left)
            render.note(f"{left.path.name} is removed: {size(left.nbytes)} free", quiet)
        except OffloadError as error:
            failed += 1
            render.note(f"{left.path.name} stays: {error}")
    return 1 if failed else 0


def _agreed(what: str, yes: bool) -> bool:
    """Raises WrongUsage where nobody is there to ask."""
    from specexec.errors import WrongUsage

    if yes:
        return True
    if not sys.stdin.isatty():
        raise WrongUsage(f"this would remove {what}, and nobody was there to agree.", hint="the same command with -y")
    return click.confirm(f"Remove {what}?", err=True)
