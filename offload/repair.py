"""Files of a store made anew from where they came, to be what its manifest says to the last bit."""

from functools import partial
from pathlib import Path

from offload.blueprint import Blueprint, Watcher
from offload.errors import DamagedFiles
from offload.manifest import read_manifest
from offload.sheet import workers
from offload.writing import write


def repair(path: Path, blueprint: Blueprint, watcher: Watcher) -> None:
    """blueprint: of the files that are to be made. Raises DamagedFiles where they come out different, or OSError."""
    wanted = read_manifest(path).files
    watcher.work({}, blueprint.nbytes)
    with workers() as pool:
        for file in blueprint.files:
            made = write(path / file.name, file.pieces(pool), partial(watcher.advance, file.name))
            if made != wanted[file.name]:
                raise DamagedFiles(f"{path / file.name}, made again, is not what it was.",
                                   hint="remove the model, then fetch it again")
