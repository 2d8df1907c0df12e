"""The models in the store of models, and which of them a name means."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from cli.home import folders
from cli.name import Name
from offload.errors import OffloadError
from offload.manifest import Identity, read_manifest
from offload.store import Store


@dataclass(frozen=True)
class Shelved:
    """A model that is here. path: of its folder, whose name is the model's own here."""

    path: Path
    identity: Identity
    nbytes: int

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def published(self) -> str:
        return Path(self.identity.source).name

    def is_called(self, text: str) -> bool:
        """By its own name here, or the one it was published under."""
        return text.casefold() in {known.casefold() for known in (self.name, self.identity.source, self.published)}

    def is_of(self, name: Name) -> bool:
        """Whether format and revision are those asked for. A branch says nothing of a commit, so it is not compared."""
        of = self.identity
        commit = name.revision is not None and re.fullmatch(r"[0-9a-f]{7,40}", name.revision)
        same = not commit or (of.revision or "").startswith(str(name.revision))
        return same and name.format in (None, of.quantisation)


def shelf() -> Iterator[Shelved]:
    """Those whose manifests can be read; their files are looked at when they are opened."""
    for path in folders():
        try:
            manifest = read_manifest(path)
        except OffloadError:
            continue
        yield Shelved(path, manifest.identity, manifest.nbytes)


def opened(path: Path) -> Shelved:
    """Raises NotHere, Refused or DamagedFiles where not all of its files are there, or small ones are not as they were."""
    store = Store(path)
    return Shelved(path, store.manifest.identity, store.nbytes)


def called(name: Name) -> list[Shelved]:
    """Those that are called so; else those with this among the words of their name, else anywhere in it."""
    here, part = [found for found in shelf() if found.is_of(name)], re.escape(name.model)
    for rung in (None, rf"(?<![a-z0-9]){part}(?![a-z0-9])", part):
        met = [of for of in here if (re.search(rung, of.name, re.IGNORECASE) if rung else of.is_called(name.model))]
        if met:
            return met
    return []


def nearest(name: Name) -> str | None:
    """The name of what is here that is most like it."""
    here = {spelling.casefold(): of.name for of in shelf() for spelling in (of.name, of.published, of.identity.source)}
    found = get_close_matches(name.model.casefold(), here, n=1, cutoff=0.5)
    return here[found[0]] if found else None
