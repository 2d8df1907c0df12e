"""A conversation as spans of token ids: what was written is never tokenised again.

Each turn appends only what the chat template adds. Without a template, turns continue one text. Where a template rewrites
earlier turns (it drops their thoughts), the turn that makes it do so holds what they became: undone, it brings them back.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from specexec.errors import WrongUsage
from specexec.exchange import Exchange, Message, Messages, joined, said
from specexec.prefix import common
from specexec.thoughts import CLOSE, visible


class ChatCodec(Protocol):
    """A tokenizer, as far as a conversation needs one."""

    def encode(self, text: str) -> list[int]:
        """Ids of `text` alone; special tokens that its text names are taken as such."""

    def encode_first(self, text: str) -> list[int]:
        """Ids of `text` at the beginning of a context, with what the tokenizer puts before it."""

    def render(self, messages: Messages) -> str | None:
        """The template's text up to where the next answer begins; None where there is no template."""


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
        return joined(self.exchanges)

    @property
    def spelled(self) -> str | None:
        """The template's text before the last answer; None without a template."""
        return self.codec.render(self._messages(self.exchanges[:-1], self.exchanges[-1].asked))

    def ask(self, question: str | Messages) -> None:
        """Appends a question. Raises WrongUsage where the template refuses it."""
        asked = [{"role": "user", "content": question}] if isinstance(question, str) else question
        self.exchanges.append(self._asked(tuple(asked)))

    def begin_answer(self) -> int:
        """The number of the answer that starts now."""
        self.answers += 1
        return self.answers - 1

    def answered(self, text: str, ids: Sequence[int]) -> None:
        self.exchanges[-1].answer, self.exchanges[-1].answer_ids = text, list(ids)

    def withdraw(self) -> None:
        """Forgets the last answer; its question stands."""
        self.answered("", [])
        self.exchanges[-1].further = {}

    def undo(self) -> None:
        """Forgets the last question and its answer."""
        self.exchanges.pop()

    def clear(self) -> None:
        """Forgets every turn; the system prompt stays."""
        self.exchanges.clear()

    def instruct(self, system: str | None) -> None:
        """Another system prompt, for all turns. Raises WrongUsage where the template refuses it."""
        self._replay(replace(self, system=system, exchanges=[]), self.exchanges)

    def drop_oldest(self) -> str:
        """Forgets the first question and its answer; returns the question."""
        dropped = self.exchanges[0].question
        self._replay(replace(self, exchanges=[]), self.exchanges[1:])
        return dropped

    def make_room(self, context: int, wanted: int) -> list[str]:
        """Drops whole oldest turns until `wanted` tokens fit behind the last question; returns the questions dropped."""
        dropped: list[str] = []
        while len(self.exchanges) > 1 and len(self.ids) + wanted > context:
            dropped.append(self.drop_oldest())
        return dropped

    def _replay(self, fresh: "Conversation", turns: Sequence[Exchange]) -> None:
        """The same turns behind another beginning: what was asked is written anew, answers keep their ids."""
        for turn in turns:
            opened = fresh._asked(turn.asked)
            fresh.exchanges.append(replace(turn, prompt_ids=opened.prompt_ids, base=opened.base))
        self.system, self.exchanges = fresh.system, fresh.exchanges

    def _asked(self, asked: tuple[Message, ...]) -> Exchange:
        if not self.exchanges:
            return Exchange(asked, self._opening(asked))
        whole = self.codec.render(self._messages(self.exchanges, asked))
        if whole is None:
            return Exchange(asked, self.codec.encode(said(asked)))
        last = self.exchanges[-1]
        before = self.codec.render(self._messages(self.exchanges[:-1], last.asked)) or ""
        for answer in (last.answer, last.answer.strip()) if not last.further else ():  # many templates strip
            if whole.startswith(before + answer):
                return Exchange(asked, self.codec.encode(whole[len(before + answer) :]))
        return self._rewritten(asked, before, whole)

    def _opening(self, asked: tuple[Message, ...]) -> list[int]:
        opening = self.codec.render(self._messages([], asked))
        if opening is not None:
            return self.codec.encode(opening)
        return self.codec.encode_first(f"{self.system}\n\n{said(asked)}" if self.system else said(asked))

    def _rewritten(self, asked: tuple[Message, ...], before: str, whole: str) -> Exchange:
        """The template changed earlier turns. What stands before the last answer keeps its ids where its text is the same.

        before: the template's text up to the last answer, whole: up to the next.
        """
        last, kept = self.exchanges[-1], common(before, whole)
        gone = self.codec.encode(before[kept:])  # such as the mark that had opened its thoughts
        stays = len(last.prompt_ids) - len(gone)
        if stays < 0 or last.prompt_ids[stays:] != gone:
            return Exchange(asked, self.codec.encode(whole), base=[])
        base = joined([*self.exchanges[:-1], replace(last, prompt_ids=last.prompt_ids[:stays], answer_ids=[])])
        rest, shown = whole[kept:], visible(last.answer)
        at = rest.find(shown)
        if not shown or at < 0:
            return Exchange(asked, self.codec.encode(rest), base=base)
        base += [*self.codec.encode(rest[:at]), *self._visible_ids(last)]
        return Exchange(asked, self.codec.encode(rest[at + len(shown) :]), base=base)

    def _visible_ids(self, of: Exchange) -> list[int]:
        """The answer's own ids behind its thoughts, where a token ends with them."""
        shown, mark = visible(of.answer), self.codec.encode(CLOSE)
        _, _, behind = of.answer.rpartition(CLOSE)
        between = self.codec.encode(behind[: behind.find(shown)])
        opening, ids = [*mark, *between], of.answer_ids
        ends = [i for i in range(len(opening), len(ids)) if ids[i - len(opening) : i] == opening]
        return ids[ends[-1] :] if ends else self.codec.encode(shown)

    def _messages(self, earlier: Sequence[Exchange], asked: Messages) -> list[Message]:
        messages: list[Message] = [{"role": "system", "content": self.system}] if self.system else []
        for exchange in earlier:
            messages += exchange.messages
        return [*messages, *asked]


def check_fits(tokens: int, context: int) -> None:
    """Raises WrongUsage unless a prompt of `tokens` leaves room for an answer."""
    if tokens >= context:
        raise WrongUsage(f"{tokens:,} tokens, the context is {context:,}.", hint="a shorter prompt, or a larger context")
