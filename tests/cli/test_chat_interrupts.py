"""Ctrl-C at random moments of a scripted chat: it stays usable, and its context is right each time."""

import json
import random
import re
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from cli.build import ModelOptions, open_session
from cli.identity import identity
from cli.interrupt import Interrupt
from cli.recall import recall
from cli.session import AnswerOptions
from specexec.conversation import Conversation
from specexec.sampling import Sampling
from tests.cli.terminal import CHAT, PATIENCE, Terminal, terminal

AGAIN = 2.5  # seconds until Ctrl-C is pressed again, as a person does; a program leaves at two within one second


def files(state: Path) -> list[Path]:
    return list((state / "specexec" / "sessions").glob("*.jsonl"))


def answers(file: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    return [line for line in lines if line.get("role") == "assistant"]


def kept(state: Path, number: int) -> bool:
    """Whether so many answers are."""
    return bool(files(state)) and len(answers(files(state)[0])) >= number


def interrupted(at: Terminal, question: str, wait: float, done: Callable[[], bool]) -> None:
    """Ctrl-C so long after a question; again where it came before there was anything to stop."""
    at.say(question)
    time.sleep(wait)
    end = time.monotonic() + PATIENCE
    while not done():
        assert time.monotonic() < end, at.screen()
        at.keys("C-c")
        again = time.monotonic() + AGAIN
        while not done() and time.monotonic() < again:
            time.sleep(0.02)


def check(file: Path, store: Path, tmp_path: Path) -> None:
    """Every answer is the beginning of what an undisturbed model writes after what the file has before it."""
    session = open_session(ModelOptions(model=str(store)), Interrupt())
    of = identity(str(store), store, session.codec)
    lines = file.read_bytes().splitlines(keepends=True)
    before = tmp_path / "before.jsonl"
    for number, line in enumerate(map(json.loads, lines)):
        if line.get("role") != "assistant" or not line["ids"]:
            continue
        before.write_bytes(b"".join(lines[:number]))
        talk = recall(before, Conversation(session.codec), of, session.target.limits.vocabulary).conversation
        talk.withdraw()
        options = AnswerOptions(Sampling(1.0, top_p=0.95), line["seed"], max_tokens=len(line["ids"]))
        made = session.begin(talk.ids, options)
        list(session.stream(made, talk.ids, options, line["answer"]))
        assert made.answer.ids == line["ids"], number


def interrupt(times: int, store: Path, given: tuple[str, ...], slowly: dict[str, str], tmp_path: Path) -> None:
    chance = random.Random(9)
    with terminal(tmp_path, *CHAT, *given, "--no-stats", XDG_STATE_HOME=str(tmp_path), **slowly) as at:
        at.prompts(1)
        for number in range(times):
            interrupted(at, f"Turn {number}: Once upon a time", chance.uniform(0, 1.2), partial(kept, tmp_path, number + 1))
            at.until(r"^>>>\s*\Z")
        at.keys("C-d")
        shown = at.until("^code=0")
    (file,) = files(tmp_path)
    found = answers(file)
    assert len(found) == times
    assert sum(answer["stop"] == "interrupted" for answer in found) > times // 2
    for number, answer in enumerate(found):
        text = re.sub(r" +$", "", answer["content"], flags=re.MULTILINE)
        told = r"(the context is full: .*\n)*([\d,]+ tokens read in \d+s\n)?"  # what was dropped changes all behind it
        assert re.search(rf"^>>> Turn {number}: Once upon a time\n{told}{re.escape(text)}$", shown, re.MULTILINE)
    check(file, store, tmp_path)


def test_ten(bundled_store: Path, slow_store: tuple[str, ...], slowly: dict[str, str], tmp_path: Path) -> None:
    interrupt(10, bundled_store, slow_store, slowly, tmp_path)


@pytest.mark.slow
def test_two_hundred(bundled_store: Path, slow_store: tuple[str, ...], slowly: dict[str, str], tmp_path: Path) -> None:
    interrupt(200, bundled_store, slow_store, slowly, tmp_path)
