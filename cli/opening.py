"""How a chat begins: a new conversation or a kept one, a terminal to edit on or plain lines, and where it is saved."""

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cli import color, sessions, settings
from cli.build import resolve
from cli.find import find
from cli.identity import identity
from cli.lines import HINT, Lines
from cli.recall import Recalled, recall
from cli.record import Record
from cli.session import Session
from cli.status import CLEAR
from cli.talk import Talk
from offload.errors import NotHere
from specexec.conversation import Conversation
from specexec.errors import WrongUsage

if TYPE_CHECKING:  # not on every system
    from cli.keys import Keys


def wanted_session(given: Mapping[str, Any]) -> Path | None:
    """The file to go on with or to begin. Raises WrongUsage and NotHere."""
    if given["go_on"] and given["session"]:
        raise WrongUsage("--continue and --session NAME name two chats.", hint="one of the two")
    if given["go_on"]:
        return sessions.latest()
    return sessions.named(given["session"]) if given["session"] else None


def edits() -> bool:
    """Whether the person sits at a terminal that can do more than lines."""
    return sys.stdin.isatty() and color.moves(sys.stdin) and (sys.stdout.isatty() or sys.stderr.isatty())


@contextmanager
def keys() -> "Iterator[Keys | None]":
    """Inside, what is typed while nobody asks for it waits there; None where there is nothing but lines."""
    if not edits():
        yield None
        return
    from cli.keys import Keys

    found = Keys()
    with found.held():
        yield found


def open_talk(session: Session, given: dict[str, Any], kept: Record, path: Path | None, keys: "Keys | None") -> Talk:
    """path: of a kept chat, or where a new one is kept under its name. keys: of a terminal where lines can be edited."""
    options = settings.answer_options(given, session.sampling)
    settings.think(session.codec, given["think"])
    of = identity(given["model"], find(given["model"], "target"), session.codec)
    fresh = Conversation(session.codec, settings.system_prompt(given["system"]))
    talk = Talk(session, fresh, options, given, kept, Lines(), of)
    if keys:
        _edit(talk, keys)
    if not session.codec.has_template:
        talk.say("no chat template: each turn continues one text")
    if path and path.exists():
        _go_on(talk, path)
    elif given["save"]:
        kept.begin(path or sessions.fresh(), talk.lines)
    return talk


def banner(talk: Talk) -> str:
    """One line: what answers, and how to leave."""
    drafts = [name for name in resolve(settings.model_options(talk.given)) if name not in ("none", "lookup")]
    drafted = f" with {' and '.join(drafts)}" if drafts else ""
    return f"{talk.given['model']}{drafted}, context {talk.session.context:,}. /help, Ctrl-D leaves"


def _go_on(talk: Talk, path: Path) -> None:
    """The same file goes on where the same model does; another one begins a file of its own."""
    keeps = talk.given["save"]
    try:
        if keeps:
            talk.kept.resume(path)
    except OSError as error:
        raise NotHere(f"{path} cannot be opened: {error.strerror}.", hint="specexec chat --no-save") from error
    system = talk.conversation.system
    found = recall(path, Conversation(talk.codec), talk.identity, talk.session.target.limits.vocabulary)
    _take(talk, found, system)
    if keeps and found.same:
        talk.kept.cut(found.whole)
        if system:
            talk.kept.add({"role": "system", "content": system})
    elif keeps:
        talk.kept.begin(sessions.fresh(), talk.lines)
    turns = len(found.conversation.exchanges)
    last = f', the last: "{found.conversation.exchanges[-1].question[:40]}"' if turns else ""
    for remark in (*found.remarks, f"going on with {path.stem}: {turns} turns{last}"):
        talk.say(remark)


def _take(talk: Talk, found: Recalled, system: str | None) -> None:
    talk.conversation = found.conversation
    if system:
        talk.conversation.instruct(system)
    if found.seed is not None and talk.given["seed"] is None:
        talk.set("seed", found.seed)


def _restore(keys: "Keys") -> None:
    """Before the program is left in mid-answer."""
    keys.restore()
    sys.stderr.write(CLEAR)
    sys.stderr.flush()


def _edit(talk: Talk, keys: "Keys") -> None:
    """Keys are read while an answer is written, lines edited between answers."""
    from cli.completer import ChatCompleter
    from cli.editor import Editor
    from cli.history import history
    from cli.home import state

    interrupt = talk.session.interrupt
    interrupt.also, interrupt.leave, talk.alone = keys.escape, lambda: _restore(keys), keys.watched
    past = history(state() / "history" if talk.given["history"] else None, talk.say)
    talk.reader = Editor(past, ChatCompleter(), lambda: click.secho(HINT, err=True, dim=True), keys.text)
