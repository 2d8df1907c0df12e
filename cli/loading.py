"""How far the loading of a model is: a line where that takes longer than a second, the last of which stays."""

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from cli.models import ModelOptions
from cli.progress import Progress, duration
from cli.status import LONG, shows
from offload.folder import Folder, Form, Hold, ResidentWeights
from offload.plan import Placement
from offload.size import size
from offload.store import Store
from offload.streamed import opened_bytes
from offload.told import Told


@contextmanager
def loading(name: str, total: int, quiet: bool) -> Iterator[Told]:
    """Inside, what it gives is told of bytes as they come, `total` in all. name: the model's, as it was typed."""
    progress, began = Progress(Path(name).name or name, not shows(quiet), LONG), time.monotonic()
    progress.begin(total, 0)
    try:
        yield lambda count: progress.advance("loading", count)
    finally:
        progress.clear()
    if (took := time.monotonic() - began) > LONG:
        progress.say(f"{progress.name}: {size(total)} loaded in {duration(took)}")


def of_store(store: Store, placed: Placement, options: ModelOptions) -> AbstractContextManager[Told]:
    """Around the opening of it."""
    return loading(options.model, opened_bytes(store, placed), options.quiet)


def of_folder(folder: Folder, layers: int, tied: bool, form: Form, options: ModelOptions, hold: Hold = dict) -> ResidentWeights:
    """As ResidentWeights makes them of these."""
    with loading(options.model, folder.nbytes, options.quiet) as told:
        return ResidentWeights(folder, layers, tied, form, hold, told)
