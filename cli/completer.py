"""Tab: commands, what can be set, and paths."""

from collections.abc import Iterable

from prompt_toolkit.completion import CompleteEvent, Completer, Completion, PathCompleter
from prompt_toolkit.document import Document

from cli.commands import COMMANDS, KNOWN
from cli.settable import names

WORDS = {command.name: command.words for command in COMMANDS if command.words}
PATHS = {name for command in COMMANDS if command.path for name in (command.name, *command.aliases)}


class ChatCompleter(Completer):
    def __init__(self) -> None:
        self._paths = PathCompleter(expanduser=True)

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterable[Completion]:
        typed = document.text_before_cursor
        command, blank, argument = typed.partition(" ")
        if not typed.startswith("/") or "\n" in typed:
            return
        if not blank:
            yield from _beginning(typed, [name + " " * bool(command.takes) for name, command in KNOWN.items()])
        elif command in PATHS:
            yield from self._paths.get_completions(Document(argument), complete_event)
        elif " " not in argument:
            words = [name + " " for name in names()] if command == "/set" else WORDS.get(command, ())
            yield from _beginning(argument, words)


def _beginning(typed: str, known: Iterable[str]) -> Iterable[Completion]:
    return (Completion(word, -len(typed)) for word in sorted(known) if word.startswith(typed))
