"""One answer as it grows: which tokens are kept, where it ends, and what of its text may be shown."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from specexec.prefix import common

REPLACEMENT = "\ufffd"
TAIL = 6  # ids that the next one's text may depend on
WINDOW = 12  # ids that are decoded together at the most, where no character is longer


class TextCodec(Protocol):
    """A tokenizer, as far as an answer needs one."""

    def encode(self, text: str) -> list[int]:
        """Ids of `text` alone; no special token is added."""

    def decode(self, ids: Sequence[int]) -> str:
        """Text of `ids`; special tokens have none."""

    def piece(self, token: int) -> str | None:
        """What it adds to any text, if not to none, that ends with a whole character; None where that depends on others."""


@dataclass(frozen=True)
class Endings:
    """What ends an answer. room: tokens until the context is full; max_tokens: None for no limit."""

    eos: frozenset[int]
    room: int
    stops: tuple[str, ...] = ()
    max_tokens: int | None = None


class Answer:
    """Tokens and text of an answer. Nothing at or after its end is kept or shown.

    stop_reason: eos, stop, max_tokens or context once it has ended, else None.
    """

    def __init__(self, codec: TextCodec, prompt: Sequence[int], endings: Endings) -> None:
        self.codec, self.endings = codec, endings
        self.ids: list[int] = []
        self.text = ""
        self.stop_reason: str | None = None
        self._window, text = self._tail(prompt)
        self._known = len(text)  # of the window's characters; the rest waits for more ids
        self._open = text.endswith(REPLACEMENT)  # whether it ends within a character
        self._whole = [(0, 0)]  # (tokens, characters) wherever no character is incomplete
        self._shown = 0
        self._check_length()

    @property
    def left(self) -> int:
        """Tokens until there is no room, or no more are wanted."""
        most = self.endings.room if self.endings.max_tokens is None else min(self.endings.room, self.endings.max_tokens)
        return most - len(self.ids)

    def take(self, tokens: Sequence[int]) -> str:
        """Adds accepted tokens up to the end; returns the text that can now be shown."""
        for token in tokens:
            if self.stop_reason is None:
                self._add(token)
        return self._release()

    def close(self, reason: str) -> str:
        """Ends it from outside; returns what was held back."""
        self.stop_reason = self.stop_reason or reason
        return self._release()

    def respelled(self, text: str) -> list[int]:
        """Ids of `text`: this answer's own as far as they spell it."""
        same = common(self.text, text)
        tokens, characters = max(place for place in self._whole if place[1] <= same)
        return self.ids[:tokens] + self._spelled(text[characters:])

    def _add(self, token: int) -> None:
        if token in self.endings.eos:
            self.stop_reason = "eos"
            return
        piece = self.codec.piece(token) if self._known and not self._open else None
        self.ids.append(token)
        self._window.append(token)
        self._grow(self._read() if piece is None else piece)
        if self.stop_reason is None:
            self._check_length()

    def _read(self) -> str:
        """What the window says since it was last known to end with a whole character; nothing where it does not now."""
        if len(self._window) > WINDOW and not self._open:
            before, text = self._tail(self._window[:-1])
            self._window, self._known = [*before, self._window[-1]], len(text)
        text = self.codec.decode(self._window)
        self._open = text.endswith(REPLACEMENT)
        return "" if self._open else text[self._known :]

    def _grow(self, text: str) -> None:
        if self._open:
            return
        searched = len(self.text)
        self.text += text
        self._known += len(text)
        self._whole.append((len(self.ids), len(self.text)))
        self._find_stop(searched)

    def _find_stop(self, searched: int) -> None:
        """Ends the text where a stop stands that the first `searched` characters do not hold."""
        if not self.endings.stops:
            return
        longest = max(map(len, self.endings.stops))
        found = [at for stop in self.endings.stops if (at := self.text.find(stop, max(0, searched - longest))) >= 0]
        if found:
            self._cut(min(found))

    def _tail(self, ids: Sequence[int]) -> tuple[list[int], str]:
        """The last ids and those before them that their first character may need; their text."""
        start = max(0, len(ids) - TAIL)
        while (text := self.codec.decode(ids[start:])).startswith(REPLACEMENT) and start:
            start -= 1
        return list(ids[start:]), text

    def _cut(self, at: int) -> None:
        """Ends the text at a character; the last kept ids spell out what is left of a token cut in two."""
        tokens, characters = max(place for place in self._whole if place[1] <= at)
        self.ids = self.ids[:tokens] + self._spelled(self.text[characters:at])
        self.text, self.stop_reason = self.text[:at], "stop"

    def _spelled(self, text: str) -> list[int]:
        """Ids of `text` where it goes on; at the beginning of a text, a tokenizer may add a space."""
        anchor, ids = self.codec.encode("\n"), self.codec.encode("\n" + text)
        return ids[len(anchor) :] if ids[: len(anchor)] == anchor else self.codec.encode(text)

    def _check_length(self) -> None:
        if len(self.ids) >= self.endings.room:
            self.stop_reason = "context"
        if self.endings.max_tokens is not None and len(self.ids) >= self.endings.max_tokens:
            self.stop_reason = "max_tokens"

    def _release(self) -> str:
        if self.stop_reason not in (None, "stop"):
            self._flush()
        end = len(self.text) - (self._held() if self.stop_reason is None else 0)
        fresh, self._shown = self.text[self._shown : end], max(self._shown, end)
        return fresh

    def _flush(self) -> None:
        """An answer that ends within a character shows what its bytes decode to."""
        if not self._open:
            return
        searched = len(self.text)
        self.text, self._open = self.text + self.codec.decode(self._window)[self._known :], False
        self._find_stop(searched)

    def _held(self) -> int:
        """Characters at the end that a stop string may begin with."""
        fits = (n for stop in self.endings.stops for n in range(1, len(stop)) if self.text.endswith(stop[:n]))
        return max(fits, default=0)
