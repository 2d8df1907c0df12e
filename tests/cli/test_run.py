"""`specexec run`: the text, the figures, pipes and Ctrl-C."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.cli.conftest import Specexec

COMMAND = [sys.executable, "-m", "specexec"]
FIGURES = {
    "text", "token_ids", "tokens", "prompt_tokens", "target_passes", "tokens_per_pass", "predicted_tokens_per_pass", "seconds",
    "prefill_seconds", "draft_seconds", "target_seconds", "tokens_per_second", "drafted", "budget", "seed", "temperature",
    "stop_reason", "first_close_call", "peak_rss_bytes", "streamed_bytes",
}


def start(*arguments: str) -> "subprocess.Popen[bytes]":
    pipe = subprocess.PIPE
    return subprocess.Popen([*COMMAND, *arguments], stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe)


def test_the_object_of_json_is_whole(specexec: Specexec) -> None:
    ran = specexec("run", "Once upon a time", "--json", "-n", "20", "--seed", "7")
    found = json.loads(ran.out)
    assert ran.code == 0
    assert found.keys() == FIGURES
    assert found["tokens"] == len(found["token_ids"]) == 20
    assert (found["seed"], found["stop_reason"]) == (7, "max_tokens")
    assert found["budget"] <= found["drafted"]


@pytest.mark.parametrize(("asked", "told"), [
    ((), "tokens/s"), (("--budget", "8"), "nodes a pass, as was asked for"), (("--draft", "none"), "0 nodes a pass")])
def test_three_lines_say_how_much_was_drafted_and_why(specexec: Specexec, asked: tuple[str, ...], told: str) -> None:
    ran = specexec("run", "Once upon a time", "-n", "20", "-v", "--no-stats", *asked)
    lines = ran.err.splitlines()
    assert len(lines) == 3
    assert told in lines[2]
    assert specexec("run", "Once upon a time", "-n", "20", "--no-stats").err == ""


def test_json_and_text_are_the_same_answer(specexec: Specexec) -> None:
    arguments = ("run", "Once upon a time", "-n", "30", "--seed", "3")
    assert json.loads(specexec(*arguments, "--json").out)["text"] == specexec(*arguments).out.removesuffix("\n")


def test_piped_text_comes_before_the_argument(specexec: Specexec) -> None:
    arguments = ("-n", "20", "--seed", "3", "--json")
    piped = specexec("run", "she went", *arguments, stdin=b"Lily had a cat.\n")
    typed = specexec("run", "Lily had a cat.\n\nshe went", *arguments)
    assert json.loads(piped.out)["token_ids"] == json.loads(typed.out)["token_ids"]


def test_all_that_is_piped_is_one_prompt_however_it_is_asked_for(specexec: Specexec) -> None:
    """Ollama once answered each line."""
    found = [json.loads(specexec("run", *given, "-n", "5", "--seed", "3", "--json", stdin=b"Lily had a cat.\n\nTom ran.\n").out)
             for given in ((), ("-",), ("-p", "-"))]
    typed = json.loads(specexec("run", "Lily had a cat.\n\nTom ran.", "-n", "5", "--seed", "3", "--json").out)
    assert [answer["token_ids"] for answer in found] == [typed["token_ids"]] * 3


def test_a_bare_sentence_is_run(specexec: Specexec) -> None:
    arguments = ("Once upon a time", "-n", "5", "--seed", "1")
    assert specexec(*arguments).out == specexec("run", *arguments).out


def test_underscores_in_options_are_hyphens(specexec: Specexec) -> None:
    assert specexec("run", "Once", "--max_tokens", "3", "--top_k", "5", "--seed", "1").code == 0


def test_stop_strings_end_the_answer_before_them(specexec: Specexec) -> None:
    whole = json.loads(specexec("run", "Once upon a time", "-n", "80", "--seed", "7", "--json").out)["text"]
    cut = json.loads(specexec("run", "Once upon a time", "-n", "80", "--seed", "7", "--json", "--stop", "ed ").out)
    assert cut["text"] == whole[: whole.index("ed ")]
    assert cut["stop_reason"] == "stop"


@pytest.mark.parametrize("quant", ["nf4", "int8"])
def test_a_model_is_quantised_as_it_is_loaded(specexec: Specexec, quant: str) -> None:
    arguments = ("run", "Once upon a time", "-n", "20", "--temperature", "0", "--json", "--quant", quant)
    ran = [json.loads(specexec(*arguments, "--activations", bits).out)["text"] for bits in ("8", "16")]
    assert all("there was a" in text for text in ran)


def test_what_missing_kernels_cost_is_said_once() -> None:
    ran = subprocess.run([*COMMAND, "run", "Once", "-n", "3", "--quant", "nf4"], capture_output=True, text=True, timeout=120,
                         stdin=subprocess.DEVNULL, env={**os.environ, "SPECEXEC_KERNELS": "reference"})
    assert (ran.returncode, ran.stderr.count("\n")) == (0, 1)
    assert "the torch reference runs" in ran.stderr


def test_none_ignores_a_budget_and_says_so(specexec: Specexec) -> None:
    ran = specexec("run", "Once", "-n", "3", "--draft", "none", "--budget", "9")
    assert ran.code == 0
    assert "--budget is ignored" in ran.err


def test_a_reader_that_goes_away_ends_it_quietly() -> None:
    process = start("run", "Once upon a time", "-n", "900")
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.read(1)
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait(60) == 141


def interrupted(arguments: list[str], after: int) -> tuple[int, bytes, bytes]:
    """Sends Ctrl-C once `after` bytes have been read: (exit code, stdout, stderr)."""
    process = start(*arguments)
    assert process.stdout is not None
    first = os.read(process.stdout.fileno(), after)
    process.send_signal(signal.SIGINT)
    rest, err = process.communicate(timeout=60)
    return process.returncode, first + rest, err


@pytest.mark.parametrize("pause", range(3))
def test_ctrl_c_keeps_what_was_printed(pause: int, shared: Path) -> None:
    model = ["-m", str(shared / "models" / "stories260k"), "--draft", "none"]
    code, out, err = interrupted(["run", "Once upon a time", "--temperature", "0", *model], 1 + 4 * pause)
    assert (code, err) == (130, b"")
    assert b", there was a little girl named Lily. She loved to play outside".startswith(out[:40].removesuffix(b"\n"))
    assert out.endswith(b"\n")


IN_A_DESTRUCTOR = """
import sys, time
from specexec.__main__ import lost
sys.unraisablehook = lost
class Slow:
    def __del__(self):
        print("now", flush=True)
        time.sleep(60)
try:
    held = Slow()
    del held
    time.sleep(60)
except KeyboardInterrupt:
    print("heard")
"""


def test_ctrl_c_where_python_drops_it_comes_again() -> None:
    process = subprocess.Popen([sys.executable, "-c", IN_A_DESTRUCTOR], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=30) == (b"heard\n", b"")


def test_ctrl_c_while_loading_is_quiet() -> None:
    process = start("run", "Once")
    while "libtorch" not in Path(f"/proc/{process.pid}/maps").read_text(encoding="utf-8"):
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err.strip()) == (130, b"", b"")


def test_the_peak_is_this_process_own() -> None:
    """Started by one that holds much more."""
    held = b"\1" * 2**30
    ran = subprocess.run([*COMMAND, "run", "Once", "-n", "2", "--json"], capture_output=True, stdin=subprocess.DEVNULL)
    assert 0 < json.loads(ran.stdout)["peak_rss_bytes"] < len(held)
