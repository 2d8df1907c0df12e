"""`specexec chat`: a plain loop over one conversation."""

import sys
from contextlib import closing
from typing import TYPE_CHECKING, Any

import click

from cli import options as table

if TYPE_CHECKING:  # torch is loaded when a command runs, not when it is named
    from cli.session import AnswerOptions, Session
    from specexec.conversation import Conversation

HINT = "Ctrl-D or /exit leaves"
HELP = f"/regen answers again, /undo takes the last question back, /clear starts over, {HINT}"
LEAVE = ("/exit", "/quit", "/bye")
ROOM = 256  # tokens kept free for an answer when old turns have to go


@click.command(epilog="Examples: specexec chat   |   specexec chat -m ./my-model --system 'Answer briefly.'")
@table.model_options
@table.sampling_options
@table.answer_options
def chat(**given: Any) -> int:
    """Talk with a model, turn by turn."""
    from cli import color, render, settings
    from cli.build import open_session
    from cli.interrupt import Interrupt
    from specexec.conversation import Conversation

    color.choose(given["color"])
    wanted = settings.model_options(given)
    with closing(open_session(wanted, Interrupt())) as session:
        chosen = settings.answer_options(given, session.sampling)
        for remark in (*settings.remarks(wanted), *session.remarks):
            render.note(remark, given["quiet"])
        talk = Talk(session, Conversation(session.codec, settings.system_prompt(given["system"])), chosen, given)
        if not session.codec.has_template:
            render.note("no chat template: each turn continues one text", given["quiet"])
        render.note(f"context {session.context:,}. {HELP}", given["quiet"])
        converse(talk)
    return 0


def converse(talk: "Talk") -> None:
    """Turn by turn, until the person leaves."""
    while True:
        try:
            line = read_line()
            if line is None or line in LEAVE:
                return
            with talk.session.interrupt.listening():
                talk.turn(line)
        except KeyboardInterrupt:  # between a turn's end and the prompt
            click.secho("\n" + HINT, err=True, dim=True)


def read_line() -> str | None:
    """A line without its end; None at the end of input. The prompt is shown on terminals alone."""
    while True:
        try:
            if sys.stdin.isatty():
                return input(">>> ")
            line = sys.stdin.readline()
            return line.removesuffix("\n") if line else None
        except EOFError:
            return None
        except UnicodeDecodeError as error:
            raise click.UsageError(f"standard input is not UTF-8 text (byte {error.start:,}).") from error
        except KeyboardInterrupt:
            click.secho("\n" + HINT, err=True, dim=True)


class Talk:
    """A conversation, the session that answers, and the commands that change it."""

    def __init__(
        self, session: "Session", conversation: "Conversation", options: "AnswerOptions", given: dict[str, Any]
    ) -> None:
        self.session, self.conversation, self.options, self.given = session, conversation, options, given
        self.commands = {"/regen": self.regenerate, "/retry": self.regenerate, "/undo": self.undo,
                         "/clear": conversation.clear, "/new": conversation.clear, "/help": self.help, "/?": self.help}

    def turn(self, line: str) -> None:
        """A command, or a question and its answer. After a question that cannot be, or a disk that failed, the chat goes on.

        Raises DamagedFiles: what is asked next would meet them too.
        """
        from cli.main import explain
        from offload.errors import DamagedFiles, OffloadError
        from specexec.errors import WrongUsage

        try:
            if line in self.commands:
                self.commands[line]()
            elif line.strip():
                self.ask(line)
        except DamagedFiles:
            raise
        except (WrongUsage, OffloadError) as error:
            explain(error)

    def ask(self, question: str) -> None:
        self.conversation.ask(question)
        try:
            self.make_room()
            self.answer()
        except Exception:
            if not self.conversation.exchanges[-1].answer:
                self.conversation.undo()
            raise

    def make_room(self) -> None:
        from cli import render
        from specexec.conversation import check_fits

        context = self.session.context
        for dropped in self.conversation.make_room(context, min(ROOM, context // 4)):
            render.note(f'the context is full: the turn "{dropped[:40]}" is dropped')
        check_fits(len(self.conversation.ids), context)

    def answer(self) -> None:
        """What was shown of it is kept, whatever ends it."""
        from cli import render
        from cli.reasons import reasons

        prompt = self.conversation.ids
        made = self.session.begin(prompt, self.options)
        try:
            render.write_answer(made, self.session.stream(made, prompt, self.options, self.conversation.begin_answer()))
        finally:
            self.conversation.answered(made.answer.text, made.answer.ids)
        for line in reasons(self.session, made, self.options) if self.given["verbose"] else ():
            render.note(line)
        if render.wants_stats(self.given["stats"], self.given["quiet"]):
            render.note(render.stats(made, self.options))

    def regenerate(self) -> None:
        if self.conversation.exchanges:
            self.conversation.withdraw()
            self.answer()

    def undo(self) -> None:
        if self.conversation.exchanges:
            self.conversation.undo()

    def help(self) -> None:
        click.secho(HELP, err=True, dim=True)
