"""A tensor of a GGUF file, as a source of rows."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from offload.gguf import PLAIN, values
from offload.parts import read, steps


@dataclass(frozen=True)
class Blocks:
    """Implements Source. head: rows of one, whose halves were woven into pairs; 0 where they lie as they were published."""

    path: Path
    name: str
    shape: tuple[int, ...]
    number: int  # of its kind
    start: int
    nbytes: int
    head: int = 0

    @property
    def dtype(self) -> torch.dtype:
        """What it is kept as where it is not quantised anew."""
        return PLAIN.get(self.number, torch.float16)

    def rows(self, start: int, stop: int) -> torch.Tensor:
        """As they are stored, or fp32 where they are blocks. Raises DamagedFiles or OffloadError, naming file and byte."""
        return values(self.raw(start, stop), self.number).view(-1, *self.shape[1:])

    def raw(self, start: int, stop: int) -> torch.Tensor:
        """uint8[stop - start, bytes of a row], the rows in the order they were published in."""
        if not self.head:
            return self._lie(start, stop)
        first = start - start % self.head
        found = self._lie(first, min(stop + -stop % self.head, self.shape[0]))
        pairs = found.view(-1, self.head // 2, 2, found.shape[1])
        return pairs.transpose(1, 2).reshape(found.shape)[start - first : stop - first]

    def _lie(self, start: int, stop: int) -> torch.Tensor:
        row = self.nbytes // self.shape[0]
        raw = read(self.path, self.start + start * row, (stop - start) * row)
        return torch.frombuffer(raw, dtype=torch.uint8).view(-1, row)

    def steps(self, multiple: int) -> Iterator[tuple[int, int]]:
        return steps(self.shape, 4, multiple)
