"""The suffix automaton of a growing text: every earlier occurrence of its longest repeated suffix, in amortised O(1) a token.

Blumer et al. 1985; for drafting: SAM decoding, Hu et al. 2024.
"""

from collections.abc import Sequence

START = 0


class SuffixAutomaton:
    """States are sets of positions where the same strings end; next[s] leads on, link[s] to the longest shorter suffix."""

    def __init__(self) -> None:
        self.next: list[dict[int, int]] = [{}]
        self.link = [-1]
        self.length = [0]
        self.last = START
        self.tokens: list[int] = []

    def follow(self, tokens: Sequence[int]) -> None:
        """Makes `tokens` the text: extends it, or starts anew where it is no prefix of them."""
        if self.tokens != list(tokens[: len(self.tokens)]):
            self.__init__()  # type: ignore[misc]
        for token in tokens[len(self.tokens) :]:
            self._extend(token)

    @property
    def repeated(self) -> int:
        """The state of the longest suffix that occurs earlier too; START where none does."""
        return max(START, self.link[self.last])

    def _extend(self, token: int) -> None:
        self.tokens.append(token)
        state, self.last = self.last, self._state({}, self.length[self.last] + 1)
        while state >= 0 and token not in self.next[state]:
            self.next[state][token] = self.last
            state = self.link[state]
        self.link[self.last] = START if state < 0 else self._suffix(state, token)

    def _suffix(self, state: int, token: int) -> int:
        """The state whose longest string is state's longest and `token`, split off where it is not."""
        below = self.next[state][token]
        if self.length[below] == self.length[state] + 1:
            return below
        clone = self._state(dict(self.next[below]), self.length[state] + 1)
        self.link[clone], self.link[below] = self.link[below], clone
        while state >= 0 and self.next[state].get(token) == below:
            self.next[state][token] = clone
            state = self.link[state]
        return clone

    def _state(self, following: dict[int, int], length: int) -> int:
        self.next.append(following)
        self.link.append(-1)
        self.length.append(length)
        return len(self.next) - 1
