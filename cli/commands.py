"""What begins with a slash in a chat: one table, for the prompt, its help and its completion."""

import difflib
from dataclasses import dataclass

from specexec.errors import WrongUsage


@dataclass(frozen=True)
class Command:
    """method: of Deeds, which does it. takes: what may follow, "" for nothing; words: fixed ones; path: it names a file."""

    name: str
    method: str
    does: str
    takes: str = ""
    aliases: tuple[str, ...] = ()
    words: tuple[str, ...] = ()
    path: bool = False


COMMANDS = (
    Command("/help", "help", "this list", aliases=("/?",)),
    Command("/regen", "regenerate", "another answer to the last question", aliases=("/retry",)),
    Command("/edit", "edit", "change the last question and ask it; /edit answer: the reply, and go on from it",
            "[answer] [TEXT]", words=("answer",)),
    Command("/undo", "undo", "forget the last question and its answer"),
    Command("/clear", "clear", "start over; the system prompt stays", aliases=("/new",)),
    Command("/system", "system", "show or change the system prompt", "[TEXT]"),
    Command("/file", "file", "put a text file before the next question", "PATH", aliases=("/read",), path=True),
    Command("/set", "set", "show or change settings: /set temp 0.7", "[NAME VALUE]"),
    Command("/stats", "stats", "what the last answer and the session cost"),
    Command("/plan", "plan", "where the model's weights are, and how fast that should be"),
    Command("/copy", "copy", "copy the last answer; /copy code: its last code block", "[code]", words=("code",)),
    Command("/save", "save", "write the conversation to a file", "FILE", path=True),
    Command("/load", "load", "go on with a conversation from a file", "FILE", path=True),
    Command("/exit", "exit", "leave; so does Ctrl-D", aliases=("/quit", "/bye")),
)
KNOWN = {name: command for command in COMMANDS for name in (command.name, *command.aliases)}


def command_of(text: str) -> tuple[Command, str] | None:
    """(command, what follows it); None for a question. Raises WrongUsage for an unknown /word alone, and what cannot follow."""
    if not text.startswith("/") or text.startswith("//"):
        return None
    word, *more = text.split(None, 1)
    rest = more[0].strip() if more else ""
    if word not in KNOWN:
        _refuse_word(word, rest)
        return None
    command = KNOWN[word]
    if rest and not command.takes:
        raise WrongUsage(f"{word} takes nothing after it.", hint=f"{word} alone, or /{word} ... for a question")
    if not rest and command.takes and not command.takes.startswith("["):
        raise WrongUsage(f"{word}: which {command.takes}?", hint=f"{word} {command.takes}")
    return command, rest


def _refuse_word(word: str, rest: str) -> None:
    """A path, or a word that more follows, is what someone asks about."""
    if not rest and word.count("/") == 1:
        near = difflib.get_close_matches(word, KNOWN, n=1, cutoff=0.5)
        raise WrongUsage(f"there is no command {word}.", hint=f"{near[0]}, or /help" if near and word[1:] else "/help")


def question_of(text: str) -> str:
    """What is asked: two slashes at the beginning stand for one."""
    return text[1:] if text.startswith("//") else text


def help_lines() -> list[str]:
    """A line for each command, and for the keys."""
    shown = [(" ".join((*sorted((c.name, *c.aliases), key=lambda name: name != c.name), c.takes)).strip(), c.does)
             for c in COMMANDS]
    keys = [("Enter", "sends; Alt-Enter or Ctrl-J begins a new line"),
            ('"""', 'begins and ends a text of many lines; so does \\ at a line\'s end continue it'),
            ("Ctrl-C, Esc", "stop an answer and keep what was shown"), ("Ctrl-X Ctrl-E", "opens $EDITOR"),
            ("//...", "a question that begins with a slash")]
    return [f"  {left:27} {right}" for left, right in (*shown, *keys)]
