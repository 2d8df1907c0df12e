"""`specexec verify`: whether converted models are still what was written, to the last bit."""

from pathlib import Path

import click

from cli import complete
from cli import options as table


@click.command(epilog="Examples: specexec verify   |   specexec verify Llama-3.2-3B-nf4")
@click.argument("model", required=False, shell_complete=complete.models)
@table.quiet_option
def verify(model: str | None, quiet: bool) -> int:
    """Compare every file of MODEL, or of all, with its sha256."""
    from cli import home, render
    from cli.main import explain
    from cli.models import find
    from offload.errors import OffloadError

    if model is not None:
        _verify(find(model, "target"), quiet)
        return 0
    worst = 0
    for path in home.folders():
        try:
            _verify(path, quiet)
        except OffloadError as error:
            worst = max(worst, explain(error))
    if not home.folders():
        render.note("no converted model is here", quiet)
    return worst


def _verify(path: Path, quiet: bool) -> None:
    from cli import render
    from cli.progress import Progress
    from offload import verify as work
    from offload.convert import size

    progress = Progress(path.name, quiet)
    try:
        found = work.verify(path, progress)
    finally:
        progress.clear()
    of = found.identity
    form = of.quantisation + (f" in {of.layout}" if of.layout else "")
    render.write(f"{click.format_filename(path)}: {len(found.files)} files, {size(found.nbytes)}, all as they were written"
                 f" ({form}, {of.layers} layers, of {of.source})\n")
