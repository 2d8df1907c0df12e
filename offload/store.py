"""A converted model: a directory whose manifest says what is in it. Any safetensors reader opens its files."""

import json
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import xxhash

from offload.errors import DamagedFiles
from offload.manifest import CONFIG, EMBEDDING, HEAD, Entry, layer_name, read_manifest

if TYPE_CHECKING:  # torch is loaded where weights are read, not where a store is looked at
    from offload.buffer import Span

GENERATION = "generation_config.json"


class Store:
    """Raises NotHere, Refused or DamagedFiles, each naming the file.

    Opening it looks at the manifest, at sizes, and at the contents of what is small: configuration and tokenizer. Weights are
    compared with their checksums when they are read.

    quant: nf4, int8 or bf16; layout: of formats.py, None for bf16. tied: whether the head was made from the embedding. The
    head's file holds the last norm, and lm_head but for tied bf16. matrices: (rows, columns) of each quantised one.
    """

    embedding, head = EMBEDDING, HEAD

    def __init__(self, path: Path) -> None:
        self.path = path
        self.manifest = read_manifest(path)
        of = self.manifest.identity
        self.quant, self.layout, self.tied, self.matrices = of.quantisation, of.layout, of.tied, self.manifest.matrices
        self.layers = tuple(layer_name(index) for index in range(of.layers))
        for name in self.manifest.files:
            self._check_size(name)
            if not name.endswith(".safetensors"):
                self._check_content(name)

    def entry(self, name: str) -> Entry:
        """Size and checksums of a file; `entry(name).checksum` is the xxh3_64 to compare with."""
        return self.manifest.files[name]

    def spans(self, name: str) -> "Mapping[str, Span]":
        """Where the tensors of a file lie in it, in order of use; raises DamagedFiles for any changed byte of its header."""
        from offload.header import store_header

        return store_header(self.path / name)

    @property
    def nbytes(self) -> int:
        return self.manifest.nbytes

    @cached_property
    def config(self) -> dict[str, Any]:
        return self._json(CONFIG)

    @cached_property
    def generation(self) -> dict[str, Any]:
        return self._json(GENERATION) if GENERATION in self.manifest.files else {}

    def _check_size(self, name: str) -> None:
        path, wanted = self.path / name, self.entry(name).nbytes
        found = path.stat().st_size if path.is_file() else None
        if found != wanted:
            what = "is missing" if found is None else f"has {found:,} bytes, not {wanted:,}"
            raise DamagedFiles(f"{path} {what}.", hint=f"specexec verify {self.path}")

    def _check_content(self, name: str) -> None:
        try:
            content = (self.path / name).read_bytes()
        except OSError as error:
            raise DamagedFiles(f"{self.path / name} cannot be read: {error}", hint=f"specexec verify {self.path}") from error
        if xxhash.xxh3_64_intdigest(content) != self.entry(name).checksum:
            raise DamagedFiles(f"{self.path / name} differs from its checksum.", hint=f"specexec verify {self.path}")

    def _json(self, name: str) -> dict[str, Any]:
        try:
            found = json.loads((self.path / name).read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise DamagedFiles(f"{self.path / name} cannot be read: {error}", hint=f"specexec verify {self.path}") from error
        if not isinstance(found, dict):
            raise DamagedFiles(f"{self.path / name} holds no JSON object.", hint=f"specexec verify {self.path}")
        return found
