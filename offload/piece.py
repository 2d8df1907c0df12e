"""A file of a store as it should be: where it is, how long, what is in it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
import xxhash

from offload.buffer import Buffer, Span
from offload.direct import BLOCK, DirectFile
from offload.errors import DamagedFiles
from offload.store import Store
from offload.told import Told, nobody


@dataclass(frozen=True)
class Piece:
    """size: bytes; checksum: its xxh3_64."""

    path: Path
    size: int
    checksum: int
    spans: Mapping[str, Span]

    @classmethod
    def of(cls, store: Store, name: str) -> "Piece":
        entry = store.entry(name)
        return cls(store.path / name, entry.nbytes, entry.checksum, store.spans(name))

    def compare(self, digest: xxhash.xxh3_64) -> None:
        """Raises DamagedFiles where the file's bytes, which were hashed, are not those that were written."""
        if digest.intdigest() != self.checksum:
            raise DamagedFiles(f"{self.path} is damaged: its checksum is wrong.", hint=f"specexec verify {self.path.parent}")

    def check(self, view: memoryview) -> None:
        """compare, for the whole file in memory."""
        digest = xxhash.xxh3_64()
        for start in range(0, self.size, BLOCK):
            digest.update(view[start : start + BLOCK])
        self.compare(digest)

    def fill(self, buffer: Buffer, told: Told = nobody) -> None:
        """Reads it into the beginning of `buffer`, and checks it. Raises DamagedFiles and OffloadError."""
        view, file = buffer.view[: self.size], DirectFile(self.path)
        try:
            file.read(view)
        finally:
            file.close()
        self.check(view)
        told(self.size)

    def read(self, told: Told = nobody) -> Buffer:
        """Its bytes, as fill reads them."""
        buffer = Buffer(self.size)
        self.fill(buffer, told)
        return buffer

    def load(self, told: Told = nobody) -> dict[str, torch.Tensor]:
        """Its tensors, as fill reads them."""
        return self.read(told).tensors(self.spans)
