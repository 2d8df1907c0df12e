"""manifest.json: what a store is, and size and checksums of every other file in it. Written last, sealed by its own hash."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from offload.errors import DamagedFiles, NotHere, Refused
from specexec.kinds import BITS, LAYOUTS

NAME = "manifest.json"
FORMAT, PLAIN = 2, 1  # of stores with a low-bit copy of their layers, and of those without
CONFIG, EMBEDDING, HEAD = FILES = "config.json", "embedding.safetensors", "head.safetensors"  # beside the layers
SEAL = "sha256"  # of the rest
BROKEN = "convert or fetch the model again"


@dataclass(frozen=True)
class Entry:
    """A file. nbytes: its size; sha256 and xxh3_64: hexadecimal."""

    nbytes: int
    sha256: str
    xxh3_64: str

    @property
    def checksum(self) -> int:
        """xxh3_64 as a number: runs as fast as memory is read, 12 GB/s a core here; crc32c no faster, sha256 1.5."""
        return int(self.xxh3_64, 16)


@dataclass(frozen=True)
class Identity:
    """What is made of what: two conversions with the same identity give the same bytes.

    source: a path or a repo; fingerprint: of its files. quantisation: nf4, int8 or bf16; layout: of formats.py, None for bf16.
    copy: the kind of a low-bit copy of the layers, None where there is none.
    """

    source: str
    revision: str | None
    fingerprint: str
    quantisation: str
    layout: str | None
    layers: int
    tied: bool
    copy: str | None = None

    def holds(self, wanted: "Identity") -> bool:
        """Whether this is that one, with a copy or without where none is wanted."""
        return replace(self, copy=wanted.copy) == wanted and wanted.copy in (None, self.copy)

    def lacks_copy(self, wanted: "Identity") -> bool:
        """Whether this is that one but for a copy it has not."""
        return self.copy is None and wanted.copy is not None and replace(self, copy=wanted.copy) == wanted

    def said(self) -> dict[str, Any]:
        """As a manifest has it: without a copy, in the format of those who knew none."""
        found = asdict(self)
        return found if self.copy else {name: value for name, value in found.items() if name != "copy"}


@dataclass(frozen=True)
class Manifest:
    """matrices: (rows, columns) of each quantised one, by its name in a layer, and of lm_head: codes are padded."""

    identity: Identity
    matrices: Mapping[str, tuple[int, int]]
    files: Mapping[str, Entry] = field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        return sum(entry.nbytes for entry in self.files.values())

    def with_files(self, files: Mapping[str, Entry]) -> "Manifest":
        return replace(self, files=dict(sorted(files.items())))

    def text(self) -> bytes:
        """The file's content."""
        version = FORMAT if self.identity.copy else PLAIN
        said = {"specexec": version, **self.identity.said(), "nbytes": self.nbytes, "matrices": self.matrices,
                "files": {name: asdict(entry) for name, entry in self.files.items()}}
        return _sealed(said)


def _sealed(said: Mapping[str, Any]) -> bytes:
    return _dump({**said, SEAL: hashlib.sha256(_dump(said)).hexdigest()})


def _dump(said: Mapping[str, Any]) -> bytes:
    return json.dumps(said, indent=1).encode() + b"\n"


def layer_name(index: int) -> str:
    return f"layer-{index:03d}.safetensors"


def copy_name(index: int) -> str:
    return f"copy-{index:03d}.safetensors"


def is_store(path: Path) -> bool:
    return (path / NAME).is_file()


def read_manifest(path: Path) -> Manifest:
    """Of the store at `path`. Raises NotHere, Refused where a newer specexec wrote it, or DamagedFiles."""
    if not is_store(path):
        raise NotHere(f"{path} is no converted model: it has no {NAME}.", hint="specexec convert FOLDER")
    try:
        text = (path / NAME).read_bytes()
        said = json.loads(text.decode())
        sound = _sealed({name: said[name] for name in said if name != SEAL}) == text
    except (OSError, ValueError, RecursionError, TypeError) as error:
        raise DamagedFiles(f"{path / NAME} cannot be read: {error}", hint=BROKEN) from error
    if not sound:
        raise DamagedFiles(f"{path / NAME} differs from its own checksum.", hint=BROKEN)
    if type(version := said.get("specexec")) is int and version > FORMAT:
        raise Refused(f"{path} is in format {version}; this specexec reads formats up to {FORMAT}.",
                      hint="a newer specexec, or convert the model again")
    return _parsed(path, text, said)


def _parsed(path: Path, text: bytes, said: dict[str, Any]) -> Manifest:
    try:
        identity = Identity(**{name: said[name] for name in Identity.__annotations__ if name in said})
        matrices = {name: (int(rows), int(columns)) for name, (rows, columns) in said["matrices"].items()}
        found = Manifest(identity, matrices, {name: Entry(**entry) for name, entry in said["files"].items()})
        if found.text() == text and _sane(found):
            return found
    except (TypeError, ValueError, KeyError, AttributeError):
        pass
    raise DamagedFiles(f"{path / NAME} says what cannot be.", hint=BROKEN)


def _sane(manifest: Manifest) -> bool:
    """Whether it can be used: whoever wrote it can also make its checksum right. Raises what nonsense raises."""
    of, files = manifest.identity, manifest.files
    kinds = (of.layout in LAYOUTS) if of.quantisation in BITS else (of.quantisation, of.layout) == ("bf16", None)
    plain = all(name == Path(name).name and name not in ("..", NAME) and not set(name) & set("\\\0") for name in files)
    sound = all(type(entry.nbytes) is int and entry.nbytes >= 0 and 0 <= entry.checksum < 2**64 for entry in files.values())
    counted = type(of.layers) is int and 0 < of.layers < len(files)
    copied = of.copy is None or (of.copy in BITS and of.layout is not None)
    if not (counted and copied):
        return False
    copies = map(copy_name, range(of.layers)) if of.copy else ()
    return kinds and plain and sound and {*FILES, *map(layer_name, range(of.layers)), *copies} <= files.keys()
