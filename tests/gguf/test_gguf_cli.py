"""GGUF files at the command line."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from cli.subject import target
from tests.cli.conftest import Specexec, specexec
from tests.cli.process import Chat
from tests.cli.test_errors import assert_two_lines
from tests.cli.test_plan import measured
from tests.gguf.conftest import F32, Q8

__all__ = ["measured", "specexec"]
FEW = ("-n", "20", "--temperature", "0")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store of models of its own."""
    monkeypatch.setenv("SPECEXEC_HOME", str(tmp_path))
    (tmp_path / "models").mkdir()
    return tmp_path


@pytest.mark.usefixtures("llamacpp")
def test_a_file_runs_drafts_and_is_drafted_for(specexec: Specexec, stories: Path) -> None:
    wanted = specexec("run", "-m", str(stories), *FEW, "Once upon a time").out
    for model, draft in ((F32, "none"), (F32, str(stories / Q8)), (F32, str(stories)), ("", str(stories / F32))):
        ran = specexec("run", "-m", str(stories / model), "--draft", draft, *FEW, "Once upon a time")
        assert (ran.code, ran.out) == (0, wanted)


@pytest.mark.usefixtures("llamacpp")
@pytest.mark.parametrize(("budget", "nodes"), [("40", 40), ("255", 255), ("1024", 255)])
def test_a_tree_has_the_nodes_that_were_asked_for_or_those_there_is_room_for(
    specexec: Specexec, stories: Path, budget: str, nodes: int
) -> None:
    run = ("run", "-m", str(stories / F32), "-n", "1", "--temperature", "0", "--json", "--draft")
    plain = json.loads(specexec(*run, "none", "Once upon a time").out)
    found = json.loads(specexec(*run, "random", "--budget", budget, "Once upon a time").out)
    assert (found["token_ids"], found["drafted"]) == (plain["token_ids"], nodes)


@pytest.mark.usefixtures("llamacpp")
def test_llamacpp_speaks_when_asked_to(specexec: Specexec, stories: Path) -> None:
    quiet = specexec("run", "-m", str(stories / F32), *FEW, "Once")
    assert quiet.err == ""
    assert "llama" in specexec("run", "-m", str(stories / F32), *FEW, "-v", "Once").err


@pytest.mark.usefixtures("llamacpp")
def test_a_chat_goes_on_from_what_was_said(stories: Path, tmp_path: Path) -> None:
    env = os.environ | {"XDG_STATE_HOME": str(tmp_path)}
    chat = Chat("-m", str(stories / Q8), "-n", "10", "--seed", "1", env=env)
    first, told = chat.turn("Once upon a time")
    assert first
    assert "tokens/s" in told
    second, _ = chat.turn("Then")
    assert second
    assert chat.leave()[0] == 0


@pytest.mark.usefixtures("llamacpp")
@pytest.mark.parametrize(("options", "said"), [
    (("--ram", "500MB"), "specexec convert"), (("--quant", "nf4"), "specexec convert"), (("--dtype", "bf16"), "--dtype bf16"),
    (("--draft", "self"), "llama.cpp has no views"), (("--ctx-size", "1000"), "context is 512")])
def test_what_cannot_be_is_told(specexec: Specexec, stories: Path, options: tuple[str, ...], said: str) -> None:
    ran = specexec("run", "-m", str(stories / F32), *options, "hi")
    assert ran.code in (2, 3)
    assert said in ran.err


def test_what_it_has_read_is_kept_in_no_file(specexec: Specexec, stories: Path, tmp_path: Path) -> None:
    ran = specexec("run", "-m", str(stories / F32), "--cache", str(tmp_path / "x.kv"), "hi")
    assert ran.code == 2
    assert "kept in no file" in ran.err
    assert "specexec convert" in ran.err


def test_without_llamacpp_it_says_what_to_install(
    specexec: Specexec, stories: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:
    from specexec.engines import llamacpp

    llamacpp.library.cache_clear()
    monkeypatch.setitem(sys.modules, "llama_cpp", None)
    ran = specexec("run", "-m", str(stories / F32), "hi")
    llamacpp.library.cache_clear()
    assert ran.code == 1
    assert "pip install 'specexec[gguf]'" in ran.err


def test_it_is_shown_listed_and_planned(specexec: Specexec, stories: Path, here: Path) -> None:
    shutil.copy(stories / Q8, here / "models" / "small.gguf")
    shown = json.loads(specexec("show", "small.gguf", "--json").out)
    assert shown["format"] == "GGUF: Q8_0 0.3 MB, F16 0.2 MB, F32 0.1 MB"
    assert (shown["parameters"], shown["context"]) == (260_032, 512)
    rows = [json.loads(line) for line in specexec("list", "--json").out.splitlines()]
    assert rows[-1] == {"name": "small.gguf", "format": "Q8_0", "size": (stories / Q8).stat().st_size, "source": "GGUF file"}
    planned = target("small.gguf", "int8")
    assert (planned.kind, planned.of.layers) == ("int8", 5)


def test_a_file_converts_and_then_streams(specexec: Specexec, stories: Path, here: Path) -> None:
    shutil.copy(stories / F32, here / "tale.gguf")
    assert specexec("convert", str(here / "tale.gguf"), "--to", "int8", "-q").code == 0
    ran = specexec("run", "-m", "tale-int8", *FEW, "Once upon a time")
    assert ran.out == specexec("run", "-m", str(stories), "--quant", "int8", *FEW, "Once upon a time").out
    again = specexec("convert", str(here / "tale.gguf"), "--to", "int8")
    assert "is there already" in again.err


def test_a_file_is_kept_as_it_is_and_streams(
    specexec: Specexec, stories: Path, here: Path, measured: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", str(torch.get_num_threads()))  # as many as were measured
    shutil.copy(measured / "machine.json", here)
    shutil.copy(stories / Q8, here / "tale.gguf")
    assert specexec("convert", str(here / "tale.gguf"), "--to", "keep", "-q").code == 0
    run = ("run", "-m", "tale-q8_0", "--draft", "lookup", "-n", "20", "--seed", "1", "Once upon a time")
    texts = {specexec(*run, "--budget", budget).out for budget in ("0", "8", "64")}
    assert len(texts) == 1
    assert json.loads(specexec("show", "tale-q8_0", "--json").out)["format"] == "q8_0"
    assert specexec("plan", "tale:q8_0", "-q").code == 0
    assert "q8_0" in specexec("plan", str(here / "tale.gguf"), "--to", "keep", "-q").out


@pytest.mark.parametrize(("command", "model"), [("convert", ""), ("plan", ""), ("plan", "config.json")])
def test_nothing_else_can_be_kept(specexec: Specexec, stories: Path, here: Path, command: str, model: str) -> None:
    ran = specexec(command, str(stories / model), "--to", "keep")
    assert ran.code == 2
    assert "GGUF" in ran.err
    ran = specexec(command, str(stories / F32), "--to", "keep")
    assert (ran.code, "--to nf4" in ran.err) == (1, True)


@pytest.mark.parametrize("command", [("run", "hi", "-m"), ("show",), ("convert",), ("plan",)])
def test_a_broken_file_is_told_in_two_lines(specexec: Specexec, tmp_path: Path, command: tuple[str, ...]) -> None:
    (tmp_path / "broken.gguf").write_bytes(b"GGUF" + bytes(50))
    ran = specexec(*command, str(tmp_path / "broken.gguf"))
    assert ran.code == 5
    assert "broken.gguf" in ran.err
    assert specexec(*command, str(tmp_path / "missing.gguf")).code == 4


def test_without_llama_cpp_a_file_says_what_to_install_or_to_convert(stories: Path) -> None:
    script = "import sys; sys.modules['llama_cpp'] = None; from cli.main import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", script, "run", "x", "-m", str(stories / F32)]
    ran = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert (ran.returncode, ran.stdout) == (1, "")
    assert_two_lines(ran.stderr, "GGUF files are run by llama.cpp, which is not here", "Try: pip install 'specexec[gguf]', or ",
                     "specexec convert")
