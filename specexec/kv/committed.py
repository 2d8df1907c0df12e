"""What every cache of whole rows in buffers of its own does when rows are committed or taken back."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence

import torch

from specexec.kv.cache import Branches
from specexec.kv.grown import Grown
from specexec.kv.kept import Fill, Form


class Committed(Grown, ABC):
    """The bookkeeping of KVCache; a subclass moves the rows. start: position of the first row."""

    def __init__(self, start: int = 0) -> None:
        super().__init__()
        self.start = start
        self.version = 0  # counts what makes a view's tail stale
        self.cuts: list[int] = []  # the lengths it was truncated to
        self.queries: dict[int, torch.Tensor] | None = None  # {layer: fp32[heads, dim]} of a first node, if a view wants them

    @property
    def held(self) -> int:
        """Committed rows that lie in its buffers: all, but in a cache that forgets."""
        return len(self._tokens)

    def asked(self, layer: int, query: torch.Tensor) -> None:
        """query[heads, dim]: of the first node of a tree, in a pass of the model whose rows these are."""
        if self.queries is not None:
            self.queries[layer] = query.float().clone()

    @property
    @abstractmethod
    def nbytes(self) -> int: ...

    @abstractmethod
    def _move(self, to: int, rows: Sequence[int]) -> None:
        """Moves the buffers' rows `rows`, in this order, to those from `to` on."""

    @property
    @abstractmethod
    def kind(self) -> str: ...

    @abstractmethod
    def form(self) -> Form: ...

    @abstractmethod
    def pieces(self) -> Iterator[torch.Tensor]: ...

    @abstractmethod
    def _reserve(self, rows: int, form: Form) -> None:
        """Room for so many committed rows of that form, in an empty cache. Raises ValueError where it is not this one's."""

    def restore(self, tokens: Sequence[int], form: Form, fill: Fill) -> None:
        self.truncate(0)
        with torch.inference_mode(False):
            self._reserve(len(tokens), form)
        self._tokens, self.version = list(tokens), self.version + 1
        try:
            fill(self.pieces())
        except BaseException:
            self.truncate(0)
            raise

    def rebase(self, path: Sequence[int], survivors: Sequence[int] = ()) -> dict[int, int]:
        branches, remap = self._branches.rebased(path, survivors)
        kept = [*path, *survivors]
        if kept != list(range(len(kept))):
            self._move(self.held, [self.held + row for row in kept])
        self._tokens += [self._branches.tokens[row] for row in path]
        self._branches, self.version = branches, self.version + bool(path)
        return remap

    def truncate(self, length: int) -> int:
        if length < self.length:
            self.version += 1
            self.cuts.append(length)
        self._cut(length)
        self._branches = Branches()
        return self.length

    def border(self, length: int, held: int) -> int:
        """What is left of its first `held` rows, a view's among them, when `length` are to be kept."""
        return length

    def reset(self, start: int) -> None:
        """Forgets everything; its first row will stand at `start`."""
        self._cut(0)
        self.start, self._branches = start, Branches()
