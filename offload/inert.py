"""A quantised matrix of random codes: a layer that costs what any layer costs, made as fast as a disk writes."""

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

import torch

from offload.frame import Slot
from offload.parts import matrix_slots, steps
from offload.woven import seeded
from specexec.formats import ZERO, shapes
from specexec.kinds import GROUP, TILE

LEAST, ABOVE = 0x0400, 0x3C00  # fp16's bits: any number from its smallest normal one up to 1, which no packer shortens


@dataclass(frozen=True)
class Inert:
    """Implements Part: the matrix `name`.weight[rows, columns]; source: names its noise. zeros: its first columns are zero."""

    name: str
    source: str
    rows: int
    columns: int
    zeros: int
    kind: str
    layout: str

    @property
    def shape(self) -> tuple[int, ...]:
        return self.rows, self.columns

    @property
    def slots(self) -> tuple[Slot, ...]:
        return matrix_slots(self.name, self.kind, self.layout, self.rows, self.columns)

    def steps(self) -> Iterator[tuple[int, int]]:
        return steps((self.rows, self.columns), 1, TILE)

    def make(self, start: int, stop: int) -> tuple[torch.Tensor, ...]:
        codes, scales = shapes(self.kind, self.layout, stop - start, self.columns)
        noise = seeded(self.source, start)
        made = torch.empty(prod(codes) // 8, dtype=torch.int64).random_(generator=noise).view(torch.int8).view(codes)
        if self.kind == "int8":
            made.clamp_(min=-127)
        zeros = made.shape[1] * self.zeros // (-(-self.columns // GROUP) * GROUP)
        made[:, :zeros] = ZERO[self.kind] * (0x11 if self.kind == "nf4" else 1)
        bits = torch.randint(LEAST, ABOVE, scales, dtype=torch.int16, generator=noise)
        return made.view(torch.uint8) if self.kind == "nf4" else made, bits.view(torch.float16)
