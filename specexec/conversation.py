"""A conversation as spans of token ids: what was written is never tokenised again.

Each turn appends only what the chat template adds. Without a template, turns continue one text.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from specexec.errors import WrongUsage

Messages = Sequence[Mapping[str, str]]


class ChatCodec(Protocol):
    """A tokenizer, as far as a conversation needs one."""

    def encode(self, text: str) -> list[int]:
        """Ids of `text` alone; special tokens that its text names are taken as such."""

    def encode_first(self, text: str) -> list[int]:
        """Ids of `text` at the beginning of a context, with what the tokenizer puts before it."""

    def render(self, messages: Messages) -> str | None:
        """The template's text up to where the next answer begins; None where there is no template."""


@dataclass
class Exchange:
    question: str
    prompt_ids: list[int]  # what the turn added before its answer
    answer: str = ""
    answer_ids: list[int] = field(default_factory=list)

    @property
    def ids(self) -> list[int]:
        return self.prompt_ids + self.answer_ids


@dataclass
class Conversation:
    """answers: generations begun so far, regenerations included; it numbers the noise, so no two share any."""

    codec: ChatCodec
    system: str | None = None
    exchanges: list[Exchange] = field(default_factory=list)
    answers: int = 0

    @property
    def ids(self) -> list[int]:
        """The context: the whole of it, ready for the next answer."""
        return [token for exchange in self.exchanges for token in exchange.ids]

    def ask(self, question: str) -> None:
        """Appends a question. Raises WrongUsage where the template refuses it."""
        self.exchanges.append(Exchange(question, self._added(question)))

    def begin_answer(self) -> int:
        """The number of the answer that starts now."""
        self.answers += 1
        return self.answers - 1

    def answered(self, text: str, ids: Sequence[int]) -> None:
        self.exchanges[-1].answer, self.exchanges[-1].answer_ids = text, list(ids)

    def withdraw(self) -> None:
        """Forgets the last answer; its question stands."""
        self.answered("", [])

    def undo(self) -> None:
        """Forgets the last question and its answer."""
        self.exchanges.pop()

    def clear(self) -> None:
        """Forgets every turn; the system prompt stays."""
        self.exchanges.clear()

    def make_room(self, context: int, wanted: int) -> list[str]:
        """Drops whole oldest turns until `wanted` tokens fit behind the last question; returns the questions dropped."""
        dropped: list[str] = []
        while len(self.exchanges) > 1 and len(self.ids) + wanted > context:
            dropped.append(self.exchanges.pop(0).question)
            self._reopen()
        return dropped

    def _reopen(self) -> None:
        """The first turn left now opens the context: its prompt alone is written anew."""
        first, last = self.exchanges[0], self.exchanges[-1]
        if first.prompt_ids or first is last:
            first.prompt_ids = self._opening(first.question)
        else:  # the template had rewritten the turns, and the last one's span holds them all
            last.prompt_ids = self.codec.encode(self.codec.render(self._messages(self.exchanges[:-1], last.question)) or "")

    def _opening(self, question: str) -> list[int]:
        opening = self.codec.render(self._messages([], question))
        if opening is not None:
            return self.codec.encode(opening)
        return self.codec.encode_first(f"{self.system}\n\n{question}" if self.system else question)

    def _added(self, question: str) -> list[int]:
        if not self.exchanges:
            return self._opening(question)
        whole = self.codec.render(self._messages(self.exchanges, question))
        if whole is None:
            return self.codec.encode(question)
        last = self.exchanges[-1]
        before = self.codec.render(self._messages(self.exchanges[:-1], last.question))
        for answer in (last.answer, last.answer.strip()):  # many templates strip
            if before is not None and whole.startswith(before + answer):
                return self.codec.encode(whole[len(before + answer) :])
        return self._rewritten(whole)

    def _rewritten(self, whole: str) -> list[int]:
        """The template changed earlier turns: they are spelled anew, as one span."""
        for exchange in self.exchanges:
            exchange.prompt_ids, exchange.answer_ids = [], []
        return self.codec.encode(whole)

    def _messages(self, earlier: Sequence[Exchange], question: str) -> list[dict[str, str]]:
        messages = [{"role": "system", "content": self.system}] if self.system else []
        for exchange in earlier:
            messages.append({"role": "user", "content": exchange.question})
            messages.append({"role": "assistant", "content": exchange.answer})
        return [*messages, {"role": "user", "content": question}]


def check_fits(tokens: int, context: int) -> None:
    """Raises WrongUsage unless a prompt of `tokens` leaves room for an answer."""
    if tokens >= context:
        raise WrongUsage(f"{tokens:,} tokens, the context is {context:,}.", hint="a shorter prompt, or a larger context")
