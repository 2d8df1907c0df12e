"""Manifests of models that are nowhere: enough for names."""

from pathlib import Path

from offload.manifest import FILES, NAME, Entry, Identity, Manifest, layer_name

ENTRY = Entry(1, "0" * 64, "0" * 16)


def shelve(home: Path, name: str, source: str, kind: str = "nf4", revision: str | None = None) -> Path:
    """A folder in the store of models at `home` that says what it is, without a weight in it."""
    layout = None if kind == "bf16" else "tile16"
    identity = Identity(source, revision, "f", kind, layout, 1, False)
    folder = home / "models" / name
    folder.mkdir(parents=True)
    manifest = Manifest(identity, {}).with_files(dict.fromkeys((*FILES, layer_name(0)), ENTRY))
    (folder / NAME).write_bytes(manifest.text())
    return folder
