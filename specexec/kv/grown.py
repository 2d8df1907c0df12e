"""What every cache knows besides its rows: which tokens are committed, and which tree hangs below."""

from collections.abc import Sequence

from specexec.kv.cache import Branches


class Grown:
    """The part of TreeCache that has to do with tokens alone."""

    def __init__(self) -> None:
        self._tokens: list[int] = []
        self._branches = Branches()

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

    def leap(self, tokens: Sequence[int]) -> int:
        return 0  # all rows are seen
