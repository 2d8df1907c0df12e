"""Keys pressed at awkward moments, on a terminal of the test's own that reads when the test says so."""

import fcntl
import os
import pty
import re
import select
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager

PATIENCE = 60.0  # seconds
CTRL_C = b"\x03"
MUCH = 9_000  # bytes: more than a terminal takes unread

ANSWERING = f"""
import signal, sys, time
from cli.keys import Keys
pressed = []
signal.signal(signal.SIGINT, lambda *_: pressed.append(True))
keys = Keys()
with keys.held(), keys.watched():
    sys.stdout.write("x" * {MUCH})
    sys.stdout.flush()
    while not pressed:
        time.sleep(0.01)
print("end")
"""
BETWEEN = """
import signal, time
from cli.keys import Keys
pressed = []
signal.signal(signal.SIGINT, lambda *_: pressed.append(True))
with Keys().held():
    print("ready", flush=True)
    while not pressed:
        time.sleep(0.01)
print("end")
"""
AT_THE_PROMPT = """
import time
from prompt_toolkit.history import InMemoryHistory
from cli.completer import ChatCompleter
from cli.editor import Editor
def hint():
    print("the hint", flush=True)
    time.sleep(0.5)
print(repr(Editor(InMemoryHistory(), ChatCompleter(), hint, str).read()))
"""
AFTER_ENTER = """
import select, sys, time, tty
from cli.keys import EVERY, Keys
tty.setraw(0)
print("ready", flush=True)
select.select([0], [], [])
keys = Keys()
with keys.held(), keys.watched():
    time.sleep(2 * EVERY)
    print(keys.escape(), repr(keys.text()))
"""


@contextmanager
def on_a_terminal(script: str) -> Iterator[int]:
    """The other end of the terminal that the script has."""
    ours, its = pty.openpty()

    def take() -> None:
        fcntl.ioctl(its, termios.TIOCSCTTY, 0)

    process = subprocess.Popen([sys.executable, "-c", script], stdin=its, stdout=its, stderr=its, start_new_session=True,
                               preexec_fn=take, env=os.environ | {"TERM": "xterm"})
    os.close(its)
    try:
        yield ours
    finally:
        process.kill()
        process.wait()
        os.close(ours)


def until(wanted: bytes, terminal: int) -> bytes:
    seen, end = b"", time.monotonic() + PATIENCE
    while not re.search(wanted, seen):
        assert select.select([terminal], [], [], max(0.0, end - time.monotonic()))[0], seen
        seen += os.read(terminal, 65_536)
    return seen


def test_ctrl_c_throws_nothing_away_that_was_written() -> None:
    with on_a_terminal(ANSWERING) as terminal:
        assert select.select([terminal], [], [], PATIENCE)[0]
        time.sleep(0.2)  # all that can be written unread is
        os.write(terminal, CTRL_C)
        time.sleep(0.2)
        assert until(b"end", terminal).count(b"x") == MUCH


def test_ctrl_c_between_a_prompt_and_its_answer_leaves_no_mark() -> None:
    with on_a_terminal(BETWEEN) as terminal:
        until(b"ready", terminal)
        os.write(terminal, CTRL_C + b"typed")
        assert until(b"end", terminal).strip() == b"end"


def test_what_is_typed_while_the_hint_is_written_is_sent() -> None:
    with on_a_terminal(AT_THE_PROMPT) as terminal:
        until(b">>>", terminal)
        os.write(terminal, CTRL_C)
        until(b"the hint", terminal)
        os.write(terminal, b"a question\r")
        until(b"'a question'", terminal)


def test_a_ctrl_c_that_came_before_keys_are_watched_stops_the_answer_too() -> None:
    with on_a_terminal(AFTER_ENTER) as terminal:
        until(b"ready", terminal)
        os.write(terminal, b"more" + CTRL_C)
        until(b"True 'more'", terminal)
