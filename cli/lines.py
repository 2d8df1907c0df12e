"""Plain lines of input, from a pipe or a terminal that can do no more, and how several of them make one question."""

import sys

import click

PROMPT, MORE = ">>> ", "... "
BLOCK, CONTINUED = '"""', "\\"
HINT = "Ctrl-D or /exit leaves"


def open_block(text: str) -> bool:
    """Whether a block was begun and not ended yet."""
    start = text.strip()
    return start.startswith(BLOCK) and not (len(start) >= 2 * len(BLOCK) and start.endswith(BLOCK))


def block_text(text: str) -> str:
    """What stands between a block's marks; text that is no block is left alone."""
    start = text.strip()
    if not start.startswith(BLOCK) or open_block(text):
        return text
    return start[len(BLOCK) : -len(BLOCK)].removeprefix("\n").removesuffix("\n")


class Lines:
    """Implements Reader. The prompt is shown, on stderr, where a person types."""

    def read(self) -> str | None:
        """A question without its end; None at the end of input. Raises UsageError for what is not UTF-8 text."""
        while True:
            try:
                return self._question()
            except UnicodeDecodeError as error:
                raise click.UsageError(f"standard input is not UTF-8 text (byte {error.start:,}).") from error
            except KeyboardInterrupt:
                click.secho("\n" + HINT, err=True, dim=True)

    def revise(self, text: str) -> str | None:
        """Nothing can be edited here."""
        return None

    def _question(self) -> str | None:
        text = self._line(PROMPT)
        while text is not None and (open_block(text) or text.endswith(CONTINUED)):
            more = self._line(MORE)
            if more is None:
                break
            text = (text if open_block(text) else text.removesuffix(CONTINUED)) + "\n" + more
        return None if text is None else block_text(text)

    def _line(self, prompt: str) -> str | None:
        if sys.stdin.isatty():
            click.echo(prompt, nl=False, err=True)
        line = sys.stdin.readline()
        return line.removesuffix("\n") if line else None
