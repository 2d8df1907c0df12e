"""A conversation under way: what is asked, how it is answered, what is kept of it."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

from cli import record, render, settings
from cli.codec import Codec
from cli.question import read_text
from cli.reasons import reasons
from cli.record import Line, Record
from cli.session import ROOM, AnswerOptions, Generation, Session
from cli.status import Status, shows
from specexec.conversation import Conversation


class Reader(Protocol):
    """Where the person types."""

    def read(self) -> str | None:
        """What was sent; None where nothing more will come."""

    def revise(self, text: str) -> str | None:
        """`text` as the person changes it; None where they cannot or would rather not."""


class Talk:
    """given: the command's options, which /set changes. alone: entered while an answer is written (keys.py)."""

    def __init__(
        self, session: Session, conversation: Conversation, options: AnswerOptions, given: dict[str, Any], kept: Record,
        reader: Reader, identity: Line, alone: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        self.session, self.conversation, self.options, self.given = session, conversation, options, given
        self.kept, self.reader, self.identity, self.alone = kept, reader, identity, alone
        self.attached: list[str] = []  # texts that come before the next question
        self.made: list[Generation] = []  # all answers of this sitting

    @property
    def codec(self) -> Codec:
        return self.session.codec

    def say(self, text: str) -> None:
        render.note(text, self.given["quiet"])

    @property
    def settings(self) -> dict[str, Any]:
        """What is in force, by the names of the options."""
        return {**self.given, **asdict(self.options.sampling), "seed": self.options.seed}

    def set(self, name: str, value: Any) -> None:
        """Raises click's UsageError and WrongUsage for what cannot be; then nothing has changed."""
        given = {**self.given, name: value}
        seeded = given if name == "seed" else {**given, "seed": self.options.seed}
        options = settings.answer_options(seeded, self.session.sampling)
        settings.think(self.codec, given["think"])
        self.given[name], self.options = value, options

    def lines(self) -> list[Line]:
        """All that a file of it holds."""
        return record.whole(record.head(self.identity, self.conversation, self.options.seed), self.conversation)

    def attach(self, path: Path) -> None:
        """Puts a text file before the next question. Raises UsageError where it is no text, WrongUsage where it is too long."""
        text = f"{path}:\n{read_text(path)}"
        tokens = len(self.codec.encode(text))
        self.session.check_room(tokens)
        self.attached.append(text)
        self.say(f"{path}, {tokens:,} tokens, comes before your next question")

    def ask(self, question: str) -> None:
        """Asks and answers. A question that cannot be answered is taken back."""
        self.conversation.ask("\n\n".join((*self.attached, question)))
        self.attached.clear()
        noted = False
        try:
            self._make_room()
            noted = True
            self.kept.add(*record.asked(self.conversation.exchanges[-1]))
            self.answer()
        except Exception:
            if not self.conversation.exchanges[-1].answer:
                self.conversation.undo()
                self.kept.add(*([{"did": "undo"}] if noted else []))
            raise

    def answer(self, text: str = "", ids: Sequence[int] = ()) -> None:
        """Writes the last answer, from `text` on; what was shown of it is kept, whatever ends it."""
        last = self.conversation.exchanges[-1]
        self.session.check_room(len(self.conversation.ids) - len(last.answer_ids) + len(ids))
        self.conversation.answered(text, ids)
        prompt, number = self.conversation.ids, self.conversation.begin_answer()
        made = self.session.begin(prompt, self.options)
        try:
            self._write(made, prompt, number, within=not text)
        finally:
            self.conversation.answered(text + made.answer.text, [*ids, *made.answer.ids])
            if last.answer or made.answer.stop_reason != "failed":
                stop = made.answer.stop_reason
                self.kept.add(record.answered(last, answer=number, seed=self.options.seed, stop=stop))
        self.made.append(made)
        self._tell(made)

    def _write(self, made: Generation, prompt: list[int], number: int, within: bool) -> None:
        status = Status(self.session, made)
        before = self.conversation.spelled if within else None
        reply = render.reply(before, self.codec.has_template, self.given["hide_thoughts"])
        beat = status.beat if shows(self.given["quiet"]) else lambda: None
        with self.alone(), self.session.pulse.watched(beat):
            texts = self.session.stream(made, prompt, self.options, number)
            render.write_answer(made, self.session.keeping(status.cleared(texts)), reply)

    def _tell(self, made: Generation) -> None:
        for line in reasons(self.session, made, self.options) if self.given["verbose"] else ():
            render.note(line)
        if render.wants_stats(self.given["stats"], self.given["quiet"]):
            render.note(render.stats(made, self.options))

    def _make_room(self) -> None:
        context = self.session.context
        for dropped in self.conversation.make_room(context, min(ROOM, context // 4)):
            render.note(f'the context is full: the turn "{dropped[:40]}" is dropped')
            self.kept.add({"did": "drop"})
        self.session.check_room(len(self.conversation.ids))
