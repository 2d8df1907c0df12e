"""`specexec verify`: whether converted models are still what was written, to the last bit."""

from pathlib import Path

import click

from cli import complete
from cli import options as table
from cli.option import act


@click.command(epilog="Examples: specexec verify   |   specexec verify Llama-3.2-3B-nf4 --repair")
@click.argument("model", required=False, shell_complete=complete.models)
@act("--repair", is_flag=True, help="Fetch and convert again what is damaged.")
@table.offline_option
@table.quiet_option
def verify(model: str | None, repair: bool, offline: bool, quiet: bool) -> int:
    """Compare every file of MODEL, or of all, with its sha256."""
    from cli import home, render
    from cli.find import find
    from cli.main import explain
    from offload.errors import OffloadError

    if repair:
        from offload.hub_errors import check_online

        check_online(offline)
    if model is not None:
        _verify(find(model, "target"), repair, quiet)
        return 0
    worst = 0
    for path in home.folders():
        try:
            _verify(path, repair, quiet)
        except OffloadError as error:
            worst = max(worst, explain(error))
    if not home.folders():
        render.note("no converted model is here", quiet)
    return worst


def _verify(path: Path, repair: bool, quiet: bool) -> None:
    from cli import render
    from cli.mend import mend
    from cli.progress import Progress
    from offload import verify as work
    from offload.manifest import read_manifest
    from offload.size import size

    progress, manifest = Progress(path.name, quiet), read_manifest(path)
    try:
        if repair and (wrong := work.wrong(path, manifest, progress)):
            mend(path.resolve(), manifest.identity, wrong, progress)
        found = work.verify(path, progress)
    finally:
        progress.clear()
    of = found.identity
    form = of.quantisation + (f" in {of.layout}" if of.layout else "")
    render.write(f"{click.format_filename(path)}: {len(found.files)} files, {size(found.nbytes)}, all as they were written"
                 f" ({form}, {of.layers} layers, of {of.source})\n")
