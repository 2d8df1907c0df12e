"""`specexec convert`: a published model, or a store in another layout, becomes a store."""

import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cli import complete
from cli import options as table

if TYPE_CHECKING:  # torch is loaded when a command runs, not when it is named
    from offload.blueprint import Blueprint


@click.command(epilog="Examples: specexec convert ./Llama-3.2-3B   |   specexec convert ./Llama-3.2-3B --to int8 --out ./int8")
@click.argument("source", shell_complete=complete.models)
@table.convert_options
def convert(
    source: str, to: str | None, layout: str, copy: str | None, out: str | None, name: str | None, quiet: bool
) -> int:
    """Convert a model into what streams, four bits a weight.

    SOURCE is a folder as published, a GGUF file, or a model that is here, which --copy adds to. Stopped at any moment, the
    same command goes on.
    """
    if out and name:
        raise click.UsageError("--out and --name contradict each other.")
    if to == "bf16" and layout != "auto":
        raise click.UsageError(f"--to bf16 knows no --layout {layout}.")
    from cli.find import find
    from cli.home import placed

    path = find(source, "target")
    blueprint = _copied(_blueprint(path, to, layout), copy)
    place = Path(out).expanduser() if out else placed(name) if name else _place(source, path, blueprint)
    return _convert(blueprint, place, quiet)


def _convert(blueprint: "Blueprint", place: Path, quiet: bool) -> int:
    from cli.interrupt import INTERRUPTED
    from cli.progress import Progress, duration
    from offload.convert import convert
    from offload.size import size

    progress, began = Progress(place.name, quiet), time.monotonic()
    try:
        made = convert(blueprint, place, progress)
    except KeyboardInterrupt:
        progress.say(f"stopped at {progress.so_far}; the same command goes on from there")
        return INTERRUPTED
    finally:
        progress.clear()
    took = f"{size(made)} in {duration(time.monotonic() - began)}"
    progress.say(f"{place.name}: {took}" if made else f"{place.name} is there already")
    click.echo(click.format_filename(place))
    return 0


def _blueprint(path: Path, to: str | None, layout: str) -> "Blueprint":
    from cli.keeping import kind
    from cli.models import opened
    from offload.gguf import Gguf
    from offload.gguf_convert import converted
    from offload.published import Goal, published
    from offload.relaid import relaid
    from offload.store import Store
    from specexec.engines.families import admit

    model = opened(path)
    kind(model, to)
    if isinstance(model, Store):
        return relaid(model, to, chosen_layout(layout))
    config = admit(model.config)
    chosen = None if to == "bf16" else chosen_layout(layout)
    goal = Goal(to or "nf4", chosen, config.num_hidden_layers, config.tie_word_embeddings)
    return converted(model, goal) if isinstance(model, Gguf) else published(model, goal)


def _copied(blueprint: "Blueprint", copy: str | None) -> "Blueprint":
    from offload.low_bit import with_copy

    if copy is None:
        return blueprint
    check_copy(copy, blueprint.identity.layout)
    return with_copy(blueprint, copy)


def check_copy(copy: str | None, layout: str | None) -> None:
    """Raises WrongUsage where none could be read. layout: of the model."""
    from specexec.errors import WrongUsage

    if copy and layout != "tile16":
        raise WrongUsage(f"--copy {copy} is for the CPU's kernels, and the model would be in {layout or 'bf16'}.",
                         hint="--to nf4 --layout tile16, or no --copy")


def chosen_layout(given: str) -> str:
    """auto: tile16 where our kernels run and no CUDA device is there to take the model."""
    from specexec.engines.device import choose_device
    from specexec.kernels.library import load

    if given != "auto":
        return given
    return "tile16" if choose_device().type != "cuda" and load() else "rowmajor"


def _place(source: str, path: Path, blueprint: "Blueprint") -> Path:
    """By the model's own name and its format; a store that is as it is wanted stays where it is."""
    from cli.home import placed
    from cli.name import BUNDLED, is_gguf
    from offload.manifest import is_store, read_manifest

    made = blueprint.identity
    if not is_store(path):
        name = Path(made.source)
        return placed(f"{source if source == BUNDLED else name.stem if is_gguf(path) else name.name}-{made.quantisation}")
    here = read_manifest(path).identity
    if here.holds(made) or here.lacks_copy(made):
        return path
    return placed(f"{path.resolve().name.removesuffix('-tile16').removesuffix('-rowmajor')}-{made.layout}")
