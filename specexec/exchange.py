"""One turn of a conversation: what was asked and answered, as messages and as ids."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Message = Mapping[str, Any]
Messages = Sequence[Message]


@dataclass
class Exchange:
    """asked: what was said before the answer, the question last; tools speak here too.

    base: what all earlier turns became, where the template rewrote them for this one. further: of the answer's message, beside
    its content: calls of tools.
    """

    asked: tuple[Message, ...]
    prompt_ids: list[int]  # what the turn added before its answer
    base: list[int] | None = None
    answer: str = ""
    answer_ids: list[int] = field(default_factory=list)
    further: Message = field(default_factory=dict)

    @property
    def question(self) -> str:
        return content(self.asked[-1])

    @property
    def ids(self) -> list[int]:
        return self.prompt_ids + self.answer_ids

    @property
    def messages(self) -> list[Message]:
        return [*self.asked, {"role": "assistant", "content": self.answer, **self.further}]


def joined(exchanges: Sequence[Exchange]) -> list[int]:
    ids: list[int] = []
    for exchange in exchanges:
        ids = [*(ids if exchange.base is None else exchange.base), *exchange.ids]
    return ids


def content(message: Message) -> str:
    return str(message.get("content") or "")


def said(asked: Messages) -> str:
    """Without a template, what is said is one text."""
    return "\n\n".join(map(content, asked))
