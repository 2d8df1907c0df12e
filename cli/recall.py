"""A conversation from its file: ours with ids, or anybody's lines of role and content."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cli.record import VERSION
from offload.errors import DamagedFiles, NotHere
from specexec.conversation import Conversation
from specexec.exchange import Exchange, Message

OURS = ("ids", "base", "answer", "seed", "stop")
Line = Mapping[str, Any]


@dataclass
class Recalled:
    """seed: of its last answer, None where the file has none. same: made with this very model. whole: bytes of whole lines."""

    conversation: Conversation
    seed: int | None = None
    same: bool = False
    whole: int = 0
    remarks: list[str] = field(default_factory=list)


def recall(path: Path, empty: Conversation, identity: Mapping[str, str], vocabulary: int) -> Recalled:
    """empty: a conversation without turns, that the file fills. identity: of the model that goes on (identity.py).

    Raises NotHere, and DamagedFiles for a file that is no conversation. A last line that was cut off is left out.
    """
    lines, whole, remarks = _lines(path)
    reading = _Reading(path, empty, identity, vocabulary)
    for number, line in enumerate(lines, 1):
        reading.take(number, line)
    reading.end()
    same = bool(lines) and all(lines[0].get(name) == value for name, value in identity.items())
    return Recalled(empty, reading.seed, same, whole, [*remarks, *reading.remarks])


def _lines(path: Path) -> tuple[list[Line], int, list[str]]:
    """(lines, bytes of the whole ones, remarks)."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise NotHere(f"{path} cannot be read: {error.strerror}.", hint="the path of a saved chat") from error
    ended, mark, rest = raw.rpartition(b"\n")
    remarks = [f"the last line of {path.name} was cut off and is left out"] if rest and not _parsed(rest) else []
    if not remarks:
        ended, mark = raw, b""
    found = [_line(path, number, text) for number, text in enumerate(ended.split(b"\n"), 1) if text.strip()]
    return found, len(ended + mark), remarks


def _parsed(text: bytes) -> Line | None:
    try:
        line = json.loads(text)
    except ValueError:
        return None
    return line if isinstance(line, dict) else None


def _line(path: Path, number: int, text: bytes) -> Line:
    line = _parsed(text)
    if line is None:
        raise _damaged(path, number, "is no JSON object")
    return line


def _damaged(path: Path, number: int, what: str) -> DamagedFiles:
    return DamagedFiles(f"line {number} of {path} {what}.", hint="another file, or one line less: they are text")


class _Reading:
    """Does line by line what the chat did."""

    def __init__(self, path: Path, talk: Conversation, identity: Mapping[str, str], vocabulary: int) -> None:
        self.path, self.talk, self.identity, self.vocabulary = path, talk, identity, vocabulary
        self.seed: int | None = None
        self.remarks: list[str] = []
        self._number = 0
        self._said: list[Message] = []  # and not in a turn yet
        self._ids = False  # those of the file are ours

    def take(self, number: int, line: Line) -> None:
        self._number = number
        if "specexec" in line:
            self._head(line)
        elif "did" in line:
            self._did(line["did"])
        else:
            self._spoken(line, self._message(line))

    def end(self) -> None:
        if self._said:
            self.talk.ask(self._said)
        if self.talk.exchanges and not self.talk.exchanges[-1].answer:
            self.remarks.append("its last question has no answer yet: /regen answers it")

    def _head(self, line: Line) -> None:
        if line["specexec"] != VERSION:
            raise self._error(f"was written by another version of specexec ({line['specexec']!r})")
        self._ids = line.get("tokens") == self.identity["tokens"]
        self._counted(line)
        if not self._ids:
            self.remarks.append(f"it was made with {line.get('model')}, whose tokens are others: its text is tokenised anew")
        elif any(line.get(name) != value for name, value in self.identity.items()):
            self.remarks.append(f"it was made with {line.get('model')}; another model goes on with it")

    def _did(self, what: object) -> None:
        if what == "clear":
            self.talk.clear()
        elif what == "undo" and self.talk.exchanges:
            self.talk.undo()
        elif what == "drop" and self.talk.exchanges:
            self.talk.drop_oldest()
        else:
            raise self._error(f"says that {what!r} was done, which cannot be")

    def _spoken(self, line: Line, message: Message) -> None:
        if message["role"] == "system" and not self._said:
            self.talk.instruct(message["content"] or None)
        elif message["role"] == "assistant" and (self._said or ("answer" in line and self.talk.exchanges) or self._waits()):
            self._answered(line, message)
        else:
            self._said.append(message)
            if "ids" in line:
                self._asked(line)

    def _waits(self) -> bool:
        """Whether the last turn has no answer."""
        return bool(self.talk.exchanges) and not self.talk.exchanges[-1].answer

    def _asked(self, line: Line) -> None:
        said, self._said = self._said, []
        if self._ids:
            base = None if line.get("base") is None else self._checked(line["base"])
            self.talk.exchanges.append(Exchange(tuple(said), self._checked(line["ids"]), base))
        else:
            self.talk.ask(said)

    def _answered(self, line: Line, message: Message) -> None:
        if self._said:
            self.talk.ask(self._said)
            self._said = []
        text = message["content"] or ""
        ids = self._checked(line["ids"]) if self._ids and "ids" in line else self.talk.codec.encode(text)
        self.talk.withdraw()
        self.talk.answered(text, ids)
        self.talk.exchanges[-1].further = {name: of for name, of in message.items() if name not in ("role", "content")}
        self._counted(line)

    def _counted(self, line: Line) -> None:
        """Noise that was used is not used again."""
        seed, number, answers = line.get("seed"), line.get("answer", -1), line.get("answers", 0)
        if not all(type(value) is int for value in (number, answers)) or (seed is not None and type(seed) is not int):
            raise self._error("has a seed or a count that is no number")
        self.seed = self.seed if seed is None else seed
        self.talk.answers = max(self.talk.answers, number + 1, answers)

    def _message(self, line: Line) -> Message:
        if not isinstance(line.get("role"), str) or not isinstance(line.get("content", ""), str | None):
            raise self._error("has no role and content")
        return {"content": None, **{name: value for name, value in line.items() if name not in OURS}}

    def _checked(self, ids: Any) -> list[int]:
        if not isinstance(ids, list) or not all(type(token) is int and 0 <= token < self.vocabulary for token in ids):
            raise self._error("has ids that are none of the model's")
        return ids

    def _error(self, what: str) -> DamagedFiles:
        return _damaged(self.path, self._number, what)
