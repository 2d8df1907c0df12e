"""What every cache of whole rows keeps besides them: which tokens are committed, and which tree hangs below."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

from specexec.kv.cache import Branches


class Committed(ABC):
    """The bookkeeping of KVCache; a subclass moves the rows. start: position of the first row."""

    def __init__(self, start: int = 0) -> None:
        self.start = start
        self.version = 0  # counts what makes a view's tail stale
        self._tokens: list[int] = []
        self._branches = Branches()

    @abstractmethod
    def _gather(self, kept: Sequence[int]) -> None:
        """Moves the tree's rows `kept`, in this order, to the end of the committed ones."""

    @property
    def tokens(self) -> Sequence[int]:
        return self._tokens

    @property
    def branches(self) -> Branches:
        return self._branches

    @property
    def length(self) -> int:
        return len(self._tokens)

    def admit(self, tokens: Sequence[int], parents: Sequence[int]) -> None:
        self._branches = self._branches.extended(tokens, parents)

    def rebase(self, path: Sequence[int], survivors: Sequence[int] = ()) -> dict[int, int]:
        branches, remap = self._branches.rebased(path, survivors)
        kept = [*path, *survivors]
        if kept != list(range(len(kept))):
            self._gather(kept)
        self._tokens += [self._branches.tokens[row] for row in path]
        self._branches, self.version = branches, self.version + bool(path)
        return remap

    def truncate(self, length: int) -> int:
        if length < self.length:
            self.version += 1
        del self._tokens[length:]
        self._branches = Branches()
        return self.length
