"""The unfinished conversion beside its place: OUT.partial holds a journal of what is whole, that, and what was fetched."""

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from offload.errors import Refused
from offload.manifest import Entry, Identity
from offload.writing import settle

JOURNAL, STORE, SOURCE = "journal", "store", "source"
FORMAT = 1


class Partial:
    """OUT.partial, whose methods raise OSError where the disk does."""

    def __init__(self, out: Path) -> None:
        self.path = out.with_name(out.name + ".partial")
        self.store, self.source, self._journal = self.path / STORE, self.path / SOURCE, self.path / JOURNAL

    def open(self) -> None:
        """Raises Refused where the folder holds what is not ours. To be called under the lock of offload/lock.py."""
        self.path.mkdir(parents=True, exist_ok=True)
        self._refuse_foreign()

    def _refuse_foreign(self) -> None:
        foreign = sorted({entry.name for entry in self.path.iterdir()} - {JOURNAL, STORE, SOURCE})
        if foreign or self.path.is_symlink() or self.store.is_symlink():
            raise Refused(f"{self.path} is not of specexec's making: {', '.join(foreign) or 'a link'}.", hint="--out PATH")

    def read(self) -> tuple[Identity | None, dict[str, Entry]]:
        """(what was begun here, the files that are whole); (None, {}) where there is nothing to go on with."""
        try:
            first, *lines = [json.loads(line) for line in self._whole_lines()]
            return Identity(**first[str(FORMAT)]), {line["name"]: Entry(**line["entry"]) for line in lines}
        except (OSError, ValueError, KeyError, TypeError):
            return None, {}

    def _whole_lines(self) -> list[bytes]:
        """All but a torn last line."""
        return self._journal.read_bytes().split(b"\n")[:-1]

    def begin(self, identity: Identity) -> None:
        """Anew: what was here is removed."""
        self._journal.unlink(missing_ok=True)
        shutil.rmtree(self.store, ignore_errors=True)
        self.store.mkdir()
        self._append({str(FORMAT): asdict(identity)})
        settle(self.path)

    def note(self, name: str, entry: Entry) -> None:
        """The file is whole: on the disk when this returns."""
        self._append({"name": name, "entry": asdict(entry)})

    def _append(self, line: Mapping[str, object]) -> None:
        """A torn last line is cut off first, or this one would grow on it."""
        with self._journal.open("a+b") as file:
            file.seek(0)
            file.truncate(file.read().rfind(b"\n") + 1)
            file.write(json.dumps(line).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())

    def is_left_of(self, identity: Identity) -> bool:
        """Whether this is what a conversion left that was stopped in `remove`."""
        return self.path.is_dir() and (self.read()[0] == identity or not any(self.path.iterdir()))

    def forget(self) -> None:
        """What was fetched for a conversion that never began."""
        if self.path.is_dir() and not self._journal.exists():
            shutil.rmtree(self.path, ignore_errors=True)

    def remove(self) -> None:
        """When the store has gone to its place. The journal goes last: it tells whose leftovers these are."""
        for folder in (self.store, self.source):
            shutil.rmtree(folder, ignore_errors=True)
        self._journal.unlink(missing_ok=True)
        self.path.rmdir()
