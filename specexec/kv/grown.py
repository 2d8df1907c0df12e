"""What every cache knows besides its rows: which tokens are committed, and which tree hangs below."""

from collections.abc import Sequence

from specexec.kv.cache import Branches
from specexec.prefix import common


class Grown:
    """The part of TreeCache that has to do with tokens alone."""

    def __init__(self) -> None:
        self._tokens: list[int] = []
        self._branches = Branches()
        self._asked: Sequence[int] = ()  # what `alike` was last asked for
        self._agreed = 0  # tokens that it was found to begin with

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

    def alike(self, tokens: Sequence[int]) -> int:
        known = self._agreed if tokens is self._asked else 0
        self._asked, self._agreed = tokens, known + common(self._tokens[known:], tokens[known:])
        return self._agreed

    def _cut(self, length: int) -> None:
        """Forgets the tokens from `length` on."""
        del self._tokens[length:]
        self._agreed = min(self._agreed, length)

    def leap(self, tokens: Sequence[int]) -> int:
        return 0  # all rows are seen
