"""`specexec chat`: a conversation one stays in."""

from contextlib import ExitStack, closing, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cli import options as table

if TYPE_CHECKING:  # torch is loaded when a command runs, not when it is named
    from cli.talk import Talk


@click.command(epilog="Examples: specexec chat   |   specexec chat -c --system 'Answer briefly.'")
@table.model_options
@table.sampling_options
@table.answer_options
@table.chat_options
def chat(files: tuple[Path, ...], **given: Any) -> int:
    """Talk with a model, turn by turn."""
    from cli.find import find

    find(given["model"], "target")  # torch, which the next lines load, would be two seconds of waiting for a no
    from cli import color, opening, settings
    from cli.build import open_session
    from cli.interrupt import Interrupt, deaf
    from cli.record import Record
    from cli.render import note

    color.choose(given["color"])
    path = opening.wanted_session(given)
    wanted = settings.model_options(given)
    with opening.keys() as keys, ExitStack() as stack:
        with keys.watched() if keys else nullcontext():
            session = stack.enter_context(closing(open_session(wanted, Interrupt())))
        kept = stack.enter_context(closing(Record(note)))
        for remark in (*settings.remarks(wanted), *session.remarks):
            note(remark, given["quiet"])
        talk = opening.open_talk(session, given, kept, path, keys)
        for file in files:
            talk.attach(file)
        talk.say(opening.banner(talk))
        with deaf() if keys else nullcontext():
            converse(talk)
    return 0


def converse(talk: "Talk") -> None:
    """Turn by turn, until the person leaves."""
    from cli.lines import HINT

    going = True
    while going:
        try:
            text = talk.reader.read()
            if text is None:
                return
            with talk.session.interrupt.listening():
                going = turn(talk, text)
        except KeyboardInterrupt:  # between a turn's end and the prompt
            click.secho("\n" + HINT, err=True, dim=True)


def turn(talk: "Talk", text: str) -> bool:
    """A command, or a question and its answer; false where the person leaves. After a question that cannot be, or a disk
    that failed, the chat goes on.

    Raises DamagedFiles: what is asked next would meet them too.
    """
    from cli.commands import command_of, question_of
    from cli.deeds import Deeds
    from cli.main import explain
    from offload.errors import DamagedFiles, OffloadError
    from specexec.errors import WrongUsage

    try:
        if found := command_of(text):
            return Deeds(talk).do(*found)
        if text.strip():
            talk.ask(question_of(text))
    except DamagedFiles:
        raise
    except click.UsageError as error:
        explain(WrongUsage(error.format_message(), hint="/help"))
    except (WrongUsage, OffloadError) as error:
        explain(error)
    return True
