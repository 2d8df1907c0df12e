"""A matrix of a large model that holds a small model's inside: noise around it that meets nothing but zeros.

The large model's stream is zero but in its live columns, so weights elsewhere cost their bytes and change nothing.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch

from offload.parts import steps


@dataclass(frozen=True, eq=False)
class Woven:
    """Implements Source: noise[shape] of standard deviation 1/sqrt(columns), with small[m, c] inside.

    row_of: int64[rows], the small row that each row holds, -1 for none. columns: int64[c], where its columns lie. blank and
    dead: bool[columns], what is zero besides in rows that hold one, and in those that hold none.
    """

    name: str
    small: torch.Tensor
    row_of: torch.Tensor
    columns: torch.Tensor
    blank: torch.Tensor
    dead: torch.Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        return len(self.row_of), len(self.blank)

    @property
    def dtype(self) -> torch.dtype:
        return torch.bfloat16

    def rows(self, start: int, stop: int) -> torch.Tensor:
        """fp32[stop - start, columns], the same at every call."""
        made = torch.empty(stop - start, self.shape[1]).normal_(0, self.shape[1] ** -0.5, generator=seeded(self.name, start))
        of = self.row_of[start:stop]
        made[of < 0] = made[of < 0].masked_fill_(self.dead, 0)
        real = made[of >= 0].masked_fill_(self.blank, 0)
        real[:, self.columns] = self.small[of[of >= 0]]
        made[of >= 0] = real
        return made

    def steps(self, multiple: int) -> Iterator[tuple[int, int]]:
        return steps(self.shape, 4, multiple)

    def taken_out(self, large: torch.Tensor) -> torch.Tensor:
        """The small matrix inside `large`[shape]: what a quantised copy holds of it."""
        return large[self.rows_at][:, self.columns]

    @cached_property
    def rows_at(self) -> torch.Tensor:
        """Where each small row lies first."""
        at = torch.full((len(self.small),), len(self.row_of))
        held = (self.row_of >= 0).nonzero().flatten()
        return at.scatter_reduce(0, self.row_of[held], held, "amin")


@dataclass(frozen=True, eq=False)
class Given:
    """Implements Source: a tensor that is there."""

    name: str
    tensor: torch.Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.tensor.shape)

    @property
    def dtype(self) -> torch.dtype:
        return self.tensor.dtype

    def rows(self, start: int, stop: int) -> torch.Tensor:
        return self.tensor[start:stop]

    def steps(self, multiple: int) -> Iterator[tuple[int, int]]:
        return steps(self.shape, self.dtype.itemsize, multiple)


@dataclass(frozen=True, eq=False)
class Padded:
    """Implements Source: bf16 [rows, columns], zero but for small[m, c], which stands `copies` times side by side."""

    name: str
    small: torch.Tensor
    shape: tuple[int, ...]
    copies: int

    @property
    def dtype(self) -> torch.dtype:
        return torch.bfloat16

    def rows(self, start: int, stop: int) -> torch.Tensor:
        made = torch.zeros(stop - start, self.shape[1], dtype=self.dtype)
        held = self.small[start:stop].to(self.dtype)
        made[: len(held), : self.copies * held.shape[1]] = held.repeat(1, self.copies)
        return made

    def steps(self, multiple: int) -> Iterator[tuple[int, int]]:
        return steps(self.shape, 2, multiple)


def seeded(name: str, start: int) -> torch.Generator:
    """Of its own for every part of every matrix, so that work that was stopped goes on to the same bytes."""
    digest = hashlib.sha256(f"{name} {start}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "little"))
