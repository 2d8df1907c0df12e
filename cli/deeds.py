"""What the commands of a chat do; the table of them is commands.py."""

import re
import sys
from collections.abc import Callable
from pathlib import Path

import click

from cli import record, render, sessions, settable
from cli.clipboard import copy
from cli.commands import Command, help_lines
from cli.main import explain
from cli.reasons import reasons
from cli.recall import recall
from cli.talk import Talk
from offload.errors import OffloadError
from offload.size import size
from specexec.answer import Answer, Endings
from specexec.conversation import Conversation
from specexec.errors import WrongUsage
from specexec.thoughts import visible

FENCED = re.compile(r"^```[^\n]*\n(.*?)(?:^```|\Z)", re.MULTILINE | re.DOTALL)


class Deeds:
    """Each method takes what followed the command; only leaving returns False."""

    def __init__(self, talk: Talk) -> None:
        self.talk = talk

    def do(self, command: Command, rest: str) -> bool:
        deed: Callable[[str], bool | None] = getattr(self, command.method)
        return deed(rest) is not False

    def help(self, rest: str) -> None:
        click.secho("\n".join(help_lines()), err=True, dim=True)

    def exit(self, rest: str) -> bool:
        return False

    def regenerate(self, rest: str) -> None:
        self._some_turn()
        last = self.talk.conversation.exchanges[-1]
        before = last.answer, last.answer_ids, last.further
        self.talk.conversation.withdraw()
        try:
            self.talk.answer()
        except Exception:
            if not last.answer:
                last.answer, last.answer_ids, last.further = before
            raise

    def undo(self, rest: str) -> None:
        question = self._some_turn()
        self.talk.conversation.undo()
        self.talk.kept.add({"did": "undo"})
        if sys.stdin.isatty():
            self.talk.say(f'forgot "{question[:40]}" and its answer')

    def clear(self, rest: str) -> None:
        self.talk.conversation.clear()
        self.talk.attached.clear()
        self.talk.kept.add({"did": "clear"})

    def edit(self, rest: str) -> None:
        which, _, text = rest.partition(" ")
        if which == "answer":
            self._edit_answer(text)
        else:
            self._edit_question(rest)

    def _edit_question(self, given: str) -> None:
        text = given or self.talk.reader.revise(self._some_turn())
        self._some_turn()
        if text and text.strip():
            self.talk.conversation.undo()
            self.talk.kept.add({"did": "undo"})
            self.talk.ask(text)
        else:
            self.talk.say("nothing was changed; /edit TEXT asks TEXT instead")

    def _edit_answer(self, given: str) -> None:
        self._some_turn()
        last = self.talk.conversation.exchanges[-1]
        text = given or self.talk.reader.revise(last.answer)
        if text is None:
            self.talk.say("nothing was changed; /edit answer TEXT makes TEXT the answer's beginning")
            return
        old = Answer(self.talk.codec, last.prompt_ids, Endings(frozenset(), self.talk.session.context))
        old.take(last.answer_ids)
        self.talk.answer(text, old.respelled(text))

    def system(self, rest: str) -> None:
        if rest:
            self.talk.conversation.instruct(None if rest == "-" else rest)
            self.talk.kept.add(record.system(self.talk.conversation.system))
        self.talk.say(self.talk.conversation.system or "no system prompt; /system TEXT sets one, /system - takes it away")

    def file(self, rest: str) -> None:
        self.talk.attach(_path(rest))

    def set(self, rest: str) -> None:
        rest = rest.removeprefix("parameter ").strip()
        if not rest:
            click.secho("\n".join(settable.values(self.talk.settings)), err=True, dim=True)
            return
        name, value = settable.assigned(rest)
        if name == "budget" and isinstance(value, int) and value >= self.talk.session.target.limits.tree:
            raise WrongUsage(f"/set budget {value}: this chat began with at most {self.talk.session.target.limits.tree - 1}.",
                             hint=f"specexec chat --budget {value}")
        self.talk.set(name, value)
        self.talk.say(f"{name.replace('_', '-')} is {value}")

    def stats(self, rest: str) -> None:
        made, talk = self.talk.made, self.talk
        if not made:
            talk.say("no answer yet")
            return
        lines = [render.stats(made[-1], talk.options), *reasons(talk.session, made[-1], talk.options)]
        click.secho("\n".join((*lines, self._sums())), err=True, dim=True)

    def _sums(self) -> str:
        """Of all answers, and of the context."""
        reports, talk = [made.report for made in self.talk.made], self.talk
        tokens, passes = sum(of.tokens for of in reports), sum(of.passes for of in reports)
        seconds = sum(made.seconds for made in talk.made)
        rate = f", {tokens / seconds:.1f} tokens/s, {tokens / passes:.1f} tokens/pass" if passes and seconds else ""
        context = f"{len(talk.conversation.ids):,} of {talk.session.context:,} positions"
        kv = size(talk.session.target.cache.nbytes)
        return f"session: {len(reports)} answers, {tokens:,} tokens{rate}; {context}, KV {kv}"

    def plan(self, rest: str) -> None:
        from cli import forecast_table
        from cli.plan import forecast_of

        given = {**self.talk.given, "to": None, "measure": False, "offline": True}
        click.secho(forecast_table.text(forecast_of(given["model"], given)).rstrip(), err=True, dim=True)

    def copy(self, rest: str) -> None:
        self._some_turn()
        text = visible(self.talk.conversation.exchanges[-1].answer)
        if rest == "code":
            found = FENCED.findall(text)
            if not found:
                raise WrongUsage("the last answer has no code block.", hint="/copy, for all of it")
            text = found[-1]
        elif rest:
            raise WrongUsage(f"/copy {rest}: only code can be picked out.", hint="/copy code")
        self.talk.say(copy(text))

    def save(self, rest: str) -> None:
        path = _path(rest)
        record.write(path, self.talk.lines())
        self.talk.say(f"saved to {path}")

    def load(self, rest: str) -> None:
        """The chat goes on in a file of its own."""
        talk, path = self.talk, _path(rest)
        try:
            found = recall(path, Conversation(talk.codec), talk.identity, talk.session.target.limits.vocabulary)
        except OffloadError as error:  # a damaged file is no reason to leave
            explain(error)
            return
        talk.conversation = found.conversation
        if found.seed is not None and found.seed != talk.options.seed:
            talk.set("seed", found.seed)
        if talk.given["save"]:
            talk.kept.begin(sessions.fresh(), talk.lines)
        for remark in found.remarks:
            talk.say(remark)
        talk.say(f"{len(found.conversation.exchanges)} turns from {path}")

    def _some_turn(self) -> str:
        """The last question. Raises WrongUsage where there is none."""
        if not self.talk.conversation.exchanges:
            raise WrongUsage("nothing was asked yet.", hint="a question, or /help")
        return self.talk.conversation.exchanges[-1].question


def _path(typed: str) -> Path:
    return Path(typed.strip("'\"")).expanduser()
