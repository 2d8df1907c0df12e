"""`specexec chat`: turns, what they cost, what is dropped, fresh noise, Ctrl-C on a real terminal."""

import os
import pty
import re
import select
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cli.build import ModelOptions, open_session
from cli.interrupt import Interrupt
from cli.session import AnswerOptions, Session
from specexec.answer import Answer, Endings
from specexec.conversation import Conversation
from specexec.noise import Noise
from specexec.sampling import Sampling
from tests.cli.conftest import Specexec


@pytest.fixture(scope="module")
def session() -> Session:
    return open_session(ModelOptions(), Interrupt())


OPTIONS = AnswerOptions(Sampling(0.7), seed=7, budget=16, max_tokens=24)


def answer(session: Session, talk: Conversation, options: AnswerOptions = OPTIONS) -> list[int]:
    prompt = talk.ids
    made = session.begin(prompt, options)
    list(session.stream(made, prompt, options, talk.begin_answer()))
    talk.answered(made.answer.text, made.answer.ids)
    return made.answer.ids


def test_turns_continue_one_text_and_it_says_so(specexec: Specexec) -> None:
    ran = specexec("chat", "-n", "10", "--seed", "1", stdin=b"Once upon a time\nThen\n")
    assert ran.code == 0
    assert "continues one text" in ran.err
    assert len(ran.out.strip().split("\n")) >= 2


def test_a_turn_of_one_chunk_costs_one_pass_before_its_first_token(session: Session) -> None:
    talk = Conversation(session.codec)
    for question in ("Once upon a time there was a dog.", " Then he went to the park with his friend."):
        talk.ask(question)
        before = session.target.passes
        made = session.begin(talk.ids, OPTIONS)
        stream = session.stream(made, talk.ids, OPTIONS, talk.begin_answer())
        next(stream)
        assert session.target.passes == before + 1
        assert made.answer.ids
        list(stream)
        talk.answered(made.answer.text, made.answer.ids)


def test_regen_with_a_fixed_seed_is_another_answer(session: Session) -> None:
    talk = Conversation(session.codec)
    talk.ask("Once upon a time")
    first = answer(session, talk)
    talk.withdraw()
    assert answer(session, talk) != first


def test_an_answer_is_repeated_by_its_seed_and_number(session: Session) -> None:
    found = []
    for _ in range(2):
        talk = Conversation(session.codec)
        talk.ask("Once upon a time")
        found.append((answer(session, talk), answer(session, talk)))
    assert found[0] == found[1]


def test_a_chat_that_drops_its_oldest_turn_has_fresh_noise(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    """No token of an answer may use noise that a token of another answer used, wherever either stands in the context."""
    used: list[tuple[int, int]] = []

    def record(self: Noise, index: int) -> object:
        used.append((self.answer, index))
        return original(self, index)

    original = Noise._fresh
    monkeypatch.setattr(Noise, "_fresh", record)
    talk = Conversation(session.codec)
    dropped = 0
    for turn in range(8):
        talk.ask(f"Turn {turn}: once upon a time there was a dog and a cat.")
        dropped += len(talk.make_room(120, 24))
        answer(session, talk)
    assert dropped >= 3
    assert {number for number, _ in used} == set(range(8))


def missing(session: Session, talk: Conversation) -> int:
    session.target.sync(talk.ids[:-1])
    return session.target.missing


def test_undoing_editing_and_answering_again_evaluate_what_changed_alone(session: Session) -> None:
    talk = Conversation(session.codec)
    talk.ask("Once upon a time there was a dog.")
    answer(session, talk)
    talk.ask(" Then he went to the park.")
    asked = len(talk.exchanges[-1].prompt_ids)
    assert missing(session, talk) <= asked  # and the last token of the answer before
    answer(session, talk)
    talk.withdraw()
    assert missing(session, talk) == 0
    answer(session, talk)
    talk.undo()
    talk.ask(" Then he went home.")
    assert missing(session, talk) < len(talk.exchanges[-1].prompt_ids)  # "Then he went" is there
    answer(session, talk)
    last = talk.exchanges[-1]
    written = Answer(session.codec, talk.ids[: -len(last.answer_ids)], Endings(frozenset(), session.context))
    written.take(last.answer_ids)
    at = len(written.text) // 2
    edited = written.respelled(written.text[:at] + " cat")
    talk.answered(written.text[:at] + " cat", edited)
    assert missing(session, talk) <= 3


def test_make_room_drops_whole_oldest_turns_and_names_them(session: Session) -> None:
    talk = Conversation(session.codec)
    for turn in range(4):
        talk.ask(f"Question {turn}.")
        talk.answered("word " * 20, session.codec.encode("word " * 20))
    talk.ask("The last one.")
    dropped = talk.make_room(len(talk.ids), 30)
    assert dropped == ["Question 0.", "Question 1."][: len(dropped)]
    assert dropped
    assert [exchange.question for exchange in talk.exchanges][-1] == "The last one."
    assert talk.ids[0] == session.codec.encode_first("x")[0]  # the context still opens as a context does


def test_a_chat_whose_context_is_full_drops_turns_and_says_which(specexec: Specexec) -> None:
    turns = "".join(f"Turn {number}: once upon a time there was a dog.\n" for number in range(6))
    given = ("chat", "-n", "40", "--seed", "1", "--ctx-size", "160", "-s", "Once")
    ran = specexec(*given, stdin=turns.encode())
    assert ran.code == 0
    dropped = re.findall(r'the context is full: the turn "(Turn \d): once', ran.err)
    assert dropped[:2] == ["Turn 0", "Turn 1"]
    assert dropped == sorted(set(dropped))
    resumed = specexec(*given[:-2], "-c", stdin=b"Turn 6\n")
    assert (resumed.code, "going on with" in resumed.err) == (0, True)


def test_commands_work_and_unknown_text_is_a_question(specexec: Specexec) -> None:
    ran = specexec("chat", "-n", "8", "--seed", "1", stdin=b"Once upon a time\n/regen\n/undo\n/clear\n/help\n/exit\nnever\n")
    assert ran.code == 0
    assert len(ran.out.strip().split("\n")) >= 2


def test_a_question_over_the_context_is_refused_and_the_chat_goes_on(specexec: Specexec) -> None:
    ran = specexec("chat", "-n", "8", "--seed", "1", stdin=b"dog " * 3000 + b"\nOnce upon a time\n")
    assert ran.code == 0
    assert "the context is 1,024" in ran.err
    assert ran.out.strip()


def read_until(terminal: int, wanted: str, keys: bytes = b"", every: float = 2.0) -> None:
    """Presses `keys` and reads until `wanted` is seen; presses them again every so often, as a person does.

    A Ctrl-C that comes between a prompt and the read below it is seen by Python at the next key alone.
    """
    seen, end, press = "", time.monotonic() + 60.0, 0.0
    while not re.search(wanted, seen):
        assert time.monotonic() < end, seen
        if keys and time.monotonic() >= press:
            os.write(terminal, keys)
            press = time.monotonic() + every
        if select.select([terminal], [], [], 0.1)[0]:
            seen += os.read(terminal, 4096).decode(errors="replace")


def test_ctrl_c_stops_the_answer_and_keeps_the_chat(shared: Path) -> None:
    """On a real pseudo-terminal, which can do no more than lines, and whose line discipline makes Ctrl-C a signal."""
    terminal, end = pty.openpty()
    model = str(shared / "models" / "stories260k")
    process = subprocess.Popen([sys.executable, "-m", "specexec", "chat", "-m", model, "--draft", "none", "--seed", "7"],
                               env={**os.environ, "TERM": "dumb"}, stdin=end, stdout=end, stderr=end, start_new_session=True,
                               preexec_fn=lambda: os.close(os.open(os.ttyname(0), os.O_RDWR)))
    os.close(end)
    read_until(terminal, ">>> ")
    os.write(terminal, b"Once upon a time\n")
    read_until(terminal, "there was")
    read_until(terminal, ">>> ", keys=b"\x03")
    read_until(terminal, "Ctrl-D or /exit leaves", keys=b"\x03")
    os.write(terminal, b"/exit\n")
    assert process.wait(60) == 0
    os.close(terminal)
