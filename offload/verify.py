"""Whether a store is what its manifest says, to the last bit."""

from collections.abc import Mapping
from pathlib import Path

from offload.blueprint import Watcher
from offload.errors import DamagedFiles
from offload.manifest import Entry, Identity, Manifest, read_manifest
from offload.writing import entry_of


def verify(path: Path, watcher: Watcher) -> Manifest:
    """Reads every file of the store at `path`. Raises DamagedFiles, naming each that is not as it should be, and as Store."""
    manifest = read_manifest(path)
    if found := wrong(path, manifest, watcher):
        raise DamagedFiles(_named(path, found), hint=remedy(path, manifest.identity))
    return manifest


def remedy(path: Path, of: Identity) -> str:
    """What makes the store at `path` whole again: from the hub file by file, from elsewhere all of it."""
    copy = f" --copy {of.copy}" if of.copy else ""
    again = f"specexec rm {path}, then specexec convert {of.source} --to {of.quantisation}{copy}"
    return again if of.revision is None else f"specexec verify {path} --repair"


def wrong(path: Path, manifest: Manifest, watcher: Watcher) -> Mapping[str, str]:
    """What is wrong with each file that is not as it should be."""
    watcher.begin(manifest.nbytes, 0)
    found = {name: _wrong(path / name, entry, watcher) for name, entry in manifest.files.items()}
    return {name: why for name, why in found.items() if why}


def _named(path: Path, wrong: Mapping[str, str]) -> str:
    files = "1 file" if len(wrong) == 1 else f"{len(wrong)} files"
    return f"{files} of {path} cannot be used: " + ", ".join(f"{name} {why}" for name, why in wrong.items()) + "."


def _wrong(path: Path, entry: Entry, watcher: Watcher) -> str | None:
    """What is wrong with a file, or None."""
    try:
        if not path.is_file():
            return "is no file" if path.exists() else "is missing"
        found = entry_of(path, lambda count: watcher.advance(path.name, count))
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    if found.nbytes != entry.nbytes:
        return f"has {found.nbytes:,} bytes, not {entry.nbytes:,}"
    return None if found == entry else "differs from its checksum"
