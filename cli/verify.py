"""`specexec verify`: whether a converted model is still what was written, to the last bit."""

import click

from cli import options as table


@click.command(epilog="Examples: specexec verify Llama-3.2-3B-nf4   |   specexec verify ./3b-int8 --repair")
@click.argument("store")
@click.option("--repair", is_flag=True, help="Fetch and convert again what is damaged.")
@table.quiet_option
def verify(store: str, repair: bool, quiet: bool) -> int:
    """Read every file of the converted model STORE and compare it with its sha256."""
    from cli.mend import mend
    from cli.models import find
    from cli.progress import Progress
    from offload import verify as work
    from offload.convert import size
    from offload.manifest import read_manifest

    path = find(store, "target")
    progress, manifest = Progress(path.name, quiet), read_manifest(path)
    try:
        if repair and (wrong := work.wrong(path, manifest, progress)):
            mend(path.resolve(), manifest.identity, wrong, progress)
        found = work.verify(path, progress)
    finally:
        progress.clear()
    of = found.identity
    form = of.quantisation + (f" in {of.layout}" if of.layout else "")
    click.echo(f"{click.format_filename(path)}: {len(found.files)} files, {size(found.nbytes)}, all as they were written"
               f" ({form}, {of.layers} layers, of {of.source})")
    return 0
