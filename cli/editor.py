"""The line a person edits on a real terminal: many lines, history, completion."""

from collections.abc import Callable

from prompt_toolkit import PromptSession
from prompt_toolkit.completion import Completer
from prompt_toolkit.enums import DEFAULT_BUFFER
from prompt_toolkit.filters import has_focus
from prompt_toolkit.history import History
from prompt_toolkit.key_binding import KeyBindings
from prompt_toolkit.key_binding.key_processor import KeyPressEvent
from prompt_toolkit.output import Output, create_output
from prompt_toolkit.output.vt100 import Vt100_Output
from prompt_toolkit.shortcuts import CompleteStyle

from cli.lines import CONTINUED, MORE, PROMPT, block_text, open_block


class Editor:
    """Implements Reader. hint: called when Ctrl-C finds nothing to clear. typed: what was typed before it was asked."""

    def __init__(self, history: History, completer: Completer, hint: Callable[[], None], typed: Callable[[], str]) -> None:
        self._hint, self._typed = hint, typed
        self._session: PromptSession[str] = PromptSession(
            history=history, completer=completer, complete_while_typing=False, complete_style=CompleteStyle.READLINE_LIKE,
            multiline=True, prompt_continuation=_continuation, key_bindings=self._keys(), search_ignore_case=True,
            enable_open_in_editor=False, tempfile_suffix=".md", output=_output())

    def read(self) -> str | None:
        """What was sent; None at Ctrl-D."""
        return self._prompt(self._typed())

    def revise(self, text: str) -> str | None:
        """`text` as the person changes it; None where they would rather not."""
        return self._prompt(text)

    def _prompt(self, default: str) -> str | None:
        try:
            return block_text(_utf8(self._session.prompt(PROMPT, default=default, handle_sigint=False)))
        except EOFError:
            return None

    def _keys(self) -> KeyBindings:
        keys = KeyBindings()
        typing = has_focus(DEFAULT_BUFFER)
        keys.add("enter", filter=typing)(_enter)
        keys.add("escape", "enter", filter=typing)(_new_line)
        keys.add("c-j", filter=typing)(_new_line)
        keys.add("c-x", "c-e", filter=typing)(lambda event: event.current_buffer.open_in_editor())
        keys.add("c-c", filter=typing)(self._clear)
        return keys

    def _clear(self, event: KeyPressEvent) -> None:
        if event.current_buffer.text:
            event.current_buffer.reset()
        else:  # not run_in_terminal: an Enter that comes while the terminal is not raw is read as a new line
            event.app.renderer.erase()
            self._hint()


def _output() -> Output:
    """Where the terminal is. It is not asked where its cursor stands: the answer might come when nobody waits for it."""
    output = create_output(always_prefer_tty=True)
    if isinstance(output, Vt100_Output):
        output.enable_cpr = False
    return output


def _enter(event: KeyPressEvent) -> None:
    """Sends, but in an open block or behind a backslash."""
    buffer = event.current_buffer
    if open_block(buffer.text):
        buffer.newline(copy_margin=False)
    elif buffer.document.text_before_cursor.endswith(CONTINUED):
        buffer.delete_before_cursor()
        buffer.newline(copy_margin=False)
    else:
        buffer.validate_and_handle()


def _new_line(event: KeyPressEvent) -> None:
    event.current_buffer.newline(copy_margin=False)


def _continuation(width: int, line: int, wraps: int) -> str:
    return " " * len(MORE) if wraps else MORE


def _utf8(text: str) -> str:
    """Bytes that are no UTF-8 are typed as surrogates, which nothing can encode."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
