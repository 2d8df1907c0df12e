"""`specexec verify`: whether a converted model is still what was written, to the last bit."""

import click

from cli import options as table


@click.command(epilog="Examples: specexec verify Llama-3.2-3B-nf4   |   specexec verify ./3b-int8")
@click.argument("store")
@table.quiet_option
def verify(store: str, quiet: bool) -> int:
    """Read every file of the converted model STORE and compare it with its sha256."""
    from cli.models import find
    from cli.progress import Progress
    from offload import verify as work
    from offload.convert import size

    path = find(store, "target")
    progress = Progress(path.name, quiet)
    try:
        found = work.verify(path, progress)
    finally:
        progress.clear()
    of = found.identity
    form = of.quantisation + (f" in {of.layout}" if of.layout else "")
    click.echo(f"{click.format_filename(path)}: {len(found.files)} files, {size(found.nbytes)}, all as they were written"
               f" ({form}, {of.layers} layers, of {of.source})")
    return 0
