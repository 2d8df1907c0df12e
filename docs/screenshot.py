"""docs/chat.svg: a chat with the bundled pair in a real terminal, as it stands there.   make screenshot"""

import io
import re
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.console import Console
from rich.text import Text

from tests.cli.terminal import Terminal, terminal

COLUMNS, LINES = 92, 25
OUT = Path(__file__).with_name("chat.svg")
SHELL = ("bash", "--norc", "--noprofile", "-i")
COMMAND = "specexec chat --seed 7 --temp 0.8 -n 48"
SAID = ("Once upon a time there was a fox who could not sleep", "/regen", "/stats")


def played(at: Terminal) -> str:
    """What the terminal shows at the end, colours as escape sequences."""
    at.until(r"\$ *\Z")
    at.say("clear")
    at.say(COMMAND)
    for number, text in enumerate(SAID, 1):
        at.prompts(number)
        at.say(text)
    at.prompts(len(SAID) + 1)
    return at.tmux("capture-pane", "-e", "-p").rstrip("\n")


def drawn(screen: str) -> str:
    """An SVG that loads nothing from elsewhere."""
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True)
    console.print(Text.from_ansi(screen))
    svg = console.export_svg(title="specexec", unique_id="specexec")
    return re.sub(r"\s*@font-face \{.*?\}", "", svg, flags=re.DOTALL)


def main() -> None:
    with TemporaryDirectory(prefix="specexec-") as folder:
        path = f"{Path(sys.executable).parent}:/usr/bin:/bin"
        with terminal(Path(folder), *SHELL, columns=COLUMNS, lines=LINES, PS1="$ ", PATH=path, XDG_STATE_HOME=folder) as at:
            OUT.write_text(drawn(played(at)))


if __name__ == "__main__":
    main()
