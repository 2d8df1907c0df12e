"""A chat as it goes, a JSON line for each thing that happened, readable by its owner alone."""

import contextlib
import fcntl
import json
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from offload.errors import Refused
from specexec.conversation import Conversation
from specexec.exchange import Exchange

VERSION = 1
PRIVATE, PRIVATE_FOLDER = 0o600, 0o700
Line = Mapping[str, Any]


def head(identity: Line, conversation: Conversation, seed: int) -> Line:
    """The first line of a file. identity: of the model (identity.py)."""
    return {"specexec": VERSION, **identity, "seed": seed, "answers": conversation.answers}


def asked(exchange: Exchange) -> list[Line]:
    """What was said before an answer, and the ids that the last of it ends."""
    ids = {"ids": exchange.prompt_ids} | ({} if exchange.base is None else {"base": exchange.base})
    return [*exchange.asked[:-1], {**exchange.asked[-1], **ids}]


def answered(exchange: Exchange, **more: Any) -> Line:
    return {"role": "assistant", "content": exchange.answer, **exchange.further, "ids": exchange.answer_ids, **more}


def system(text: str | None) -> Line:
    return {"role": "system", "content": text}


def whole(first: Line, conversation: Conversation) -> list[Line]:
    """All lines of a conversation as it stands."""
    turns = [line for exchange in conversation.exchanges
             for line in (*asked(exchange), *([answered(exchange)] if exchange.answer_ids else []))]
    return [first, *([system(conversation.system)] if conversation.system else []), *turns]


def spelled(lines: Iterable[Line]) -> bytes:
    return b"".join(json.dumps(line, ensure_ascii=False).encode("utf-8", "replace") + b"\n" for line in lines)


def write(path: Path, lines: Iterable[Line]) -> None:
    """A file of them, whole or not at all. Raises Refused for a place that holds something else, or takes nothing."""
    if path.exists() and not _ours(path):
        raise Refused(f"{path} is there already, and is no saved chat.", hint="/save with another name")
    temporary = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, PRIVATE), "wb") as file:
            file.write(spelled(lines))
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise Refused(f"{path} cannot be written: {error.strerror}.", hint="/save with another name") from error


def _ours(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(12).startswith(b'{"specexec":')
    except OSError:
        return False


class Record:
    """Appends to a file that no other chat may have open. say: told where the disk takes no more; the chat goes on."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._path: Path | None = None
        self._file: int | None = None
        self._first: Callable[[], list[Line]] = list

    @property
    def name(self) -> str | None:
        return self._path.stem if self._path else None

    def begin(self, path: Path, first: Callable[[], list[Line]]) -> None:
        """A new file, made when there is something to write in it; first: what it opens with, by then."""
        self.close()
        self._path, self._first = path, first

    def resume(self, path: Path) -> None:
        """Goes on with a file. Raises Refused where another chat has it, and OSError."""
        self.close()
        self._path, self._file = path, self._locked(path)

    def cut(self, size: int) -> None:
        """Keeps the first `size` bytes of a file gone on with."""
        if self._file is not None:
            os.ftruncate(self._file, size)

    def add(self, *lines: Line) -> None:
        if self._path is None:
            return
        try:
            if self._file is None:
                self._open(self._path)
            else:
                self._append(spelled(lines))
        except OSError as error:
            self._say(f"{self._path} cannot be written: {error.strerror}; this chat is no longer saved")
            self.close()

    def close(self) -> None:
        if self._file is not None:
            os.close(self._file)
        self._path = self._file = None

    def _open(self, path: Path) -> None:
        """What happened last is in its first lines already."""
        path.parent.mkdir(mode=PRIVATE_FOLDER, parents=True, exist_ok=True)
        self._file = self._locked(path, os.O_CREAT)
        self._append(spelled(self._first()))

    def _locked(self, path: Path, flags: int = 0) -> int:
        file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC | flags, PRIVATE)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(file)
            raise Refused(f"the session {path.stem} is open in another chat.", hint="specexec chat, for a new one") from error
        return file

    def _append(self, text: bytes) -> None:
        """All of it or nothing: half a line would spoil the next one."""
        assert self._file is not None
        size, left = os.fstat(self._file).st_size, memoryview(text)
        try:
            while left:
                left = left[os.write(self._file, left) :]
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(self._file, size)
            raise
