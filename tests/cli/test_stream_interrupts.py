"""Ctrl-C while a model streams: real signals at random moments of a pass, on a disk made slow."""

import random
import signal
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.cli.conftest import least
from tests.cli.process import PATIENCE, Chat, read_until, start
from tests.faults import environment

LAYER = 0.4  # seconds of a read; a pass takes six of them
SLACK = 0.4  # to be scheduled and to write, half of the times; others may keep the processor for longer
TEARDOWN = 10.0  # of the interpreter with torch loaded, at the most
TIMES = 6


def given(store: Path) -> tuple[str, ...]:
    return ("--temperature", "1", "--seed", "7", "-m", str(store), "--ram", str(least(store)), "--draft", "none")


def slow(only_while: Path | None = None) -> dict[str, str]:
    return environment("slow", "layer-", int(1000 * LAYER), only_while)


def interrupted(store: Path, wait: float) -> tuple[float, float, int, bytes, bytes]:
    """Ctrl-C so long after the first text: (seconds to the last line, to the end, exit code, stdout, stderr)."""
    process = start("run", "Once upon a time", *given(store), env=slow())
    assert process.stdin is not None
    process.stdin.close()
    process.stdin = None
    first = read_until(process.stdout, b",")
    time.sleep(wait)
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    rest = read_until(process.stdout, b"\n")
    told = time.monotonic() - began
    out, err = process.communicate(timeout=PATIENCE)
    return told, time.monotonic() - began, process.returncode, first + rest + out, err


def test_ctrl_c_in_a_pass_ends_it_within_a_layer(bundled_store: Path) -> None:
    chance = random.Random(7)
    waits = [chance.uniform(0, 8 * LAYER) for _ in range(TIMES)]
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda wait: interrupted(bundled_store, wait), waits))
    assert statistics.median(told for told, *_ in found) < LAYER + SLACK
    for _, ended, code, out, err in found:
        assert (code, err) == (130, b"")
        assert out.startswith(b",")
        assert out.endswith(b"\n")
        assert ended < 2 * LAYER + TEARDOWN


def test_a_second_ctrl_c_leaves_a_read_that_does_not_end(bundled_store: Path, tmp_path: Path) -> None:
    busy = tmp_path / "busy"
    process = start("run", "Once upon a time", *given(bundled_store), env=environment("slow", "layer-", 60_000, busy))
    assert process.stdin is not None
    process.stdin.close()
    read_until(process.stdout, b",")
    busy.touch()
    time.sleep(LAYER)
    began = time.monotonic()
    for _ in range(2):
        process.send_signal(signal.SIGINT)
        time.sleep(LAYER / 2)
    assert process.wait(PATIENCE) == 130
    assert time.monotonic() - began < 30


def test_ctrl_c_in_a_chat_ends_the_answer_alone(bundled_store: Path, tmp_path: Path) -> None:
    """What follows is what an undisturbed chat writes: nothing of the pass that was left stays."""
    first, second, chance, busy = "Once upon a time", "Then Lily went home and", random.Random(8), tmp_path / "busy"
    sound, disturbed = (Chat("-n", "12", *given(bundled_store), env=env) for env in (None, slow(busy)))
    told = []
    for _ in range(TIMES):
        busy.touch()
        disturbed.say(first)
        time.sleep(chance.uniform(0, 8 * LAYER))
        began = time.monotonic()
        disturbed.process.send_signal(signal.SIGINT)
        disturbed.ended()
        told.append(time.monotonic() - began)
        busy.unlink()
        assert disturbed.shown().endswith("\n")
        whole, _ = sound.turn(first)
        assert len(whole) > 1
        for chat in (sound, disturbed):
            chat.say("/undo")
        assert disturbed.turn(second)[0] == sound.turn(second)[0]
        for chat in (sound, disturbed):
            chat.say("/undo")
    assert statistics.median(told) < LAYER + SLACK
    assert (sound.leave(), disturbed.leave()) == ((0, ""), (0, ""))


def test_ctrl_c_while_a_long_question_is_read_keeps_the_chat(bundled_store: Path, tmp_path: Path) -> None:
    """It takes three passes to read; the second one is interrupted. The chat goes on as if nothing had been asked."""
    second, busy = "Then Lily went home and", tmp_path / "busy"
    question = "One day a small dog saw a big red ball in the park and wanted to play with it. " * 30
    sound, disturbed = (Chat("-n", "8", *given(bundled_store), env=env) for env in (None, slow(busy)))
    busy.touch()
    disturbed.say(question)
    time.sleep(9 * LAYER)
    began = time.monotonic()
    disturbed.process.send_signal(signal.SIGINT)
    disturbed.ended()
    assert time.monotonic() - began < LAYER + 5 * SLACK
    busy.unlink()
    assert disturbed.shown().strip() == ""
    sound.turn(question)  # as many answers were begun
    for again in (question, second):
        for chat in (sound, disturbed):
            chat.say("/undo")
        assert disturbed.turn(again)[0] == sound.turn(again)[0]
    assert disturbed.turn(second)[0] == sound.turn(second)[0]
    assert (sound.leave(), disturbed.leave()) == ((0, ""), (0, ""))
