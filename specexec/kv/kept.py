"""Committed rows that outlive their cache: read out bit by bit, and taken back by another one of the same form."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Protocol, runtime_checkable

import torch

Form = Mapping[str, str | int]
Fill = Callable[[Iterable[torch.Tensor]], None]
"""fill(pieces): writes the bytes of each where it lies, in order; raises where they are not all there, or not as they were."""


@runtime_checkable
class Kept(Protocol):
    """A KV cache whose rows can be kept elsewhere."""

    @property
    def tokens(self) -> Sequence[int]: ...

    @property
    def kind(self) -> str:
        """Rows of one kind and form mean the same in every cache."""

    def form(self) -> Form:
        """Sizes and places of its rows; there are some."""

    def pieces(self) -> Iterator[torch.Tensor]:
        """uint8[n] each, parts of its buffers: the committed rows, in an order that kind, form and length say."""

    def restore(self, tokens: Sequence[int], form: Form, fill: Fill) -> None:
        """Holds these rows instead of its own once `fill` has returned; nothing at all where that raises.

        Raises ValueError for a form it does not have.
        """


def as_bytes(part: torch.Tensor) -> torch.Tensor:
    """uint8[n]: a contiguous part of a buffer, in place."""
    return part.view(-1).view(torch.uint8)
