"""`convert` and `verify` as a person meets them: where things go, what is said, and the two lines of every mistake."""

import io
import json
import re
import shutil
import signal
import sys
from pathlib import Path

import pytest

from cli import home
from cli.progress import Progress, duration
from offload.store import Store
from tests.cli.conftest import Specexec
from tests.cli.test_errors import assert_two_lines
from tests.models import saved


@pytest.fixture(autouse=True)
def store_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where models are kept during a test."""
    monkeypatch.setenv("SPECEXEC_HOME", str(tmp_path / "home"))
    return tmp_path / "home" / "models"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved("llama"), tmp_path / "Tiny-Llama"))


# --- what it does


def test_a_model_is_kept_under_its_name_and_format(model: Path, store_home: Path, specexec: Specexec) -> None:
    ran = specexec("convert", str(model))
    assert (ran.code, ran.out) == (0, f"{store_home / 'Tiny-Llama-nf4'}\n")
    assert "Tiny-Llama-nf4: 0.1 MB in" in ran.err
    assert Store(store_home / "Tiny-Llama-nf4").quant == "nf4"
    ran = specexec("convert", str(model), "--to", "int8", "--name", "other")
    assert ran.out == f"{store_home / 'other'}\n"
    assert Store(store_home / "other").quant == "int8"


def test_the_bundled_model_and_what_is_kept_are_known_by_name(store_home: Path, specexec: Specexec) -> None:
    assert specexec("convert", "bundled", "--layout", "tile16", "--copy", "3bit", "--name", "copied").code == 0
    assert json.loads(specexec("show", "copied", "--json").out)["copy"] == "3bit"
    assert specexec("convert", "bundled", "--layout", "tile16").code == 0
    ran = specexec("verify", "bundled-nf4")
    assert ran.code == 0
    said = r".*/bundled-nf4: 12 files, \d\.\d MB, all as they were written \(nf4 in tile16, 6 layers, of .*\)\n"
    assert re.fullmatch(said, ran.out)
    ran = specexec("convert", "bundled-nf4", "--layout", "rowmajor")
    assert ran.out == f"{store_home / 'bundled-nf4-rowmajor'}\n"
    assert Store(store_home / "bundled-nf4-rowmajor").layout == "rowmajor"


def test_a_copy_is_added_to_a_model_where_it_is(model: Path, store_home: Path, specexec: Specexec) -> None:
    specexec("convert", str(model), "--layout", "tile16")
    ran = specexec("convert", "Tiny-Llama-nf4", "--copy", "3bit", "--layout", "tile16")
    assert (ran.code, ran.out) == (0, f"{store_home / 'Tiny-Llama-nf4'}\n")
    assert "Tiny-Llama-nf4: 0.1 MB in" in ran.err
    assert Store(store_home / "Tiny-Llama-nf4").manifest.identity.copy == "3bit"
    assert specexec("verify", "Tiny-Llama-nf4").code == 0
    for again in (("Tiny-Llama-nf4", "--copy", "3bit"), (str(model), "--copy", "3bit"), (str(model),)):
        assert "is there already" in specexec("convert", *again, "--layout", "tile16").err
    assert specexec("rm", "Tiny-Llama-nf4", "--yes").code == 0
    assert list(store_home.iterdir()) == []


@pytest.mark.parametrize("other", [("--to", "bf16"), ("--layout", "rowmajor")])
def test_a_copy_nobody_could_read_is_refused(other: tuple[str, ...], model: Path, specexec: Specexec) -> None:
    ran = specexec("convert", str(model), "--copy", "3bit", *other)
    assert ran.code == 2
    assert_two_lines(ran.err, "--copy 3bit", other[1], "--layout tile16")


def test_a_store_that_is_as_it_is_wanted_stays_where_it_is(model: Path, tmp_path: Path, specexec: Specexec) -> None:
    specexec("convert", str(model), "--out", str(tmp_path / "out"), "--layout", "rowmajor")
    ran = specexec("convert", str(tmp_path / "out"), "--layout", "rowmajor")
    assert (ran.code, ran.out) == (0, f"{tmp_path / 'out'}\n")
    assert "is there already" in ran.err


def test_twice_is_there_already(model: Path, tmp_path: Path, specexec: Specexec) -> None:
    for said in (" in ", "is there already"):
        ran = specexec("convert", str(model), "--out", str(tmp_path / "out"), "--to", "bf16")
        assert (ran.code, ran.out) == (0, f"{tmp_path / 'out'}\n")
        assert said in ran.err


def test_quiet_prints_the_place_alone(model: Path, tmp_path: Path, specexec: Specexec) -> None:
    ran = specexec("convert", str(model), "--out", str(tmp_path / "out"), "-q")
    assert (ran.out, ran.err) == (f"{tmp_path / 'out'}\n", "")
    assert specexec("verify", str(tmp_path / "out"), "-q").err == ""


def test_options_come_from_the_environment(
    model: Path, store_home: Path, specexec: Specexec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPECEXEC_TO", "int8")
    monkeypatch.setenv("SPECEXEC_LAYOUT", "rowmajor")
    specexec("convert", str(model))
    assert Store(store_home / "Tiny-Llama-int8").layout == "rowmajor"


@pytest.mark.parametrize(("library", "cuda", "layout"),
                         [(True, False, "tile16"), (None, False, "rowmajor"), (True, True, "rowmajor")])
def test_the_layout_is_this_machines(
    library: object, cuda: bool, layout: str, model: Path, store_home: Path, specexec: Specexec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("specexec.kernels.library.load", lambda: library)
    monkeypatch.setattr("torch.cuda.is_available", lambda: cuda)
    specexec("convert", str(model))
    assert Store(store_home / "Tiny-Llama-nf4").layout == layout


def test_a_snapshot_of_the_hub_has_its_models_name(tmp_path: Path, store_home: Path, specexec: Specexec) -> None:
    snapshot = tmp_path / "models--org--Some-1B" / "snapshots" / "abc"
    shutil.copytree(saved("llama"), snapshot)
    assert specexec("convert", str(snapshot)).out == f"{store_home / 'Some-1B-nf4'}\n"


def test_without_a_variable_models_are_the_users_data(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("SPECEXEC_HOME")
    monkeypatch.setattr("platformdirs.user_data_path", lambda *_, **__: tmp_path)
    assert home.models() == tmp_path / "models"


# --- Ctrl-C


def test_ctrl_c_says_that_the_same_command_goes_on(
    model: Path, tmp_path: Path, specexec: Specexec, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Progress.advance

    def press(self: Progress, what: str, count: int) -> None:
        real(self, what, count)
        if what == "layer-001.safetensors":
            signal.raise_signal(signal.SIGINT)

    command = ("convert", str(model), "--out", str(tmp_path / "out"))
    with monkeypatch.context() as pressing:
        pressing.setattr(Progress, "advance", press)
        ran = specexec(*command)
    assert (ran.code, ran.out) == (130, "")
    assert re.fullmatch(r"stopped at 0\.\d of 0\.1 MB; the same command goes on from there\n", ran.err)
    assert not (tmp_path / "out").exists()
    ran = specexec(*command)
    assert ran.code == 0
    assert "resuming: 0.1 MB of 0.1 MB already here, verified" in ran.err
    assert specexec("verify", str(tmp_path / "out")).code == 0


# --- mistakes


WRONG = [
    (("convert",), 2, ("SOURCE",)),
    (("convert", "MODEL", "--to", "nf3"), 2, ("--to", "nf4")),
    (("convert", "MODEL", "--layout", "tile8"), 2, ("--layout",)),
    (("convert", "MODEL", "--to", "bf16", "--layout", "tile16"), 2, ("bf16", "tile16")),
    (("convert", "MODEL", "--out", "x", "--name", "y"), 2, ("--out", "--name")),
    (("convert", "MODEL", "--name", "../x"), 1, ("../x", "--name")),
    (("convert", "MODEL", "--name", ".."), 1, ("..",)),
    (("convert", "MODEL", "--layuot", "tile16"), 2, ("Try: --layout",)),
    (("convert", "no-such-model"), 4, ("no-such-model",)),
    (("convert", "./no-such-folder"), 4, ("no-such-folder",)),
    (("convert", "MODEL/config.json"), 1, ("is a file",)),
    (("convert", "MODEL", "--out", "MODEL"), 1, ("is there already",)),
    (("verify", "MODEL"), 4, ("manifest.json", "specexec convert")),
    (("verify", "./no-such-folder"), 4, ("no-such-folder",)),
    (("converts", "MODEL"), 2, ("Try: specexec convert",)),
]


@pytest.mark.parametrize(("arguments", "code", "words"), WRONG)
def test_a_wrong_command_says_what_to_type(
    arguments: tuple[str, ...], code: int, words: tuple[str, ...], model: Path, specexec: Specexec
) -> None:
    ran = specexec(*(argument.replace("MODEL", str(model)) for argument in arguments))
    assert_two_lines(ran.err, *words)
    assert (ran.code, ran.out) == (code, "")


@pytest.mark.parametrize(("config", "code", "word"), [
    ('{"model_type": "gpt2"}', 1, "gpt2"), ('{"auto_map": {}, "model_type": "x"}', 1, "x"), ("{", 5, "config.json"),
    ('{"model_type": "llama", "num_hidden_layers": "many"}', 5, "config.json"),
])
def test_a_configuration_of_no_use_is_refused(config: str, code: int, word: str, model: Path, specexec: Specexec) -> None:
    (model / "config.json").write_text(config)
    ran = specexec("convert", str(model))
    assert_two_lines(ran.err, word)
    assert ran.code == code


@pytest.mark.parametrize(("layers", "word"), [(4, "layers.3"), (1_000_000_000, "num_hidden_layers"), (-1, "num_hidden_layers")])
def test_layers_that_are_not_there_are_refused(layers: int, word: str, model: Path, specexec: Specexec) -> None:
    file = model / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"num_hidden_layers": layers}))
    ran = specexec("convert", str(model))
    assert_two_lines(ran.err, word)
    assert ran.code == 5


def test_a_pickle_is_refused(model: Path, specexec: Specexec) -> None:
    (model / "model.safetensors").rename(model / "pytorch_model.bin")
    ran = specexec("convert", str(model))
    assert_two_lines(ran.err, "is a pickle")
    assert ran.code == 1


def test_a_store_is_not_quantised_anew(model: Path, tmp_path: Path, specexec: Specexec) -> None:
    specexec("convert", str(model), "--out", str(tmp_path / "out"))
    ran = specexec("convert", str(tmp_path / "out"), "--to", "int8")
    assert_two_lines(ran.err, f"Try: specexec convert {model} --to int8")
    assert ran.code == 1


def test_a_full_disk_is_said_first(model: Path, specexec: Specexec, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("offload.convert.shutil.disk_usage", lambda path: shutil._ntuple_diskusage(10**6, 10**6, 5000))
    ran = specexec("convert", str(model))
    assert_two_lines(ran.err, "is needed", "is free", "--out")
    assert (ran.code, ran.out) == (3, "")


def test_damaged_files_are_named(model: Path, tmp_path: Path, specexec: Specexec) -> None:
    out = tmp_path / "out"
    specexec("convert", str(model), "--out", str(out))
    for name in ("layer-002.safetensors", "config.json"):
        with (out / name).open("r+b") as file:
            file.write(b"\0")
    ran = specexec("verify", str(out))
    assert_two_lines(ran.err, "layer-002.safetensors", "config.json", "2 files")
    assert (ran.code, ran.out) == (5, "")
    ran = specexec("convert", str(out), "--layout", "rowmajor")
    assert ran.code == 5
    assert_two_lines(ran.err, "specexec verify")


# --- progress


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


class Log(io.StringIO):
    encoding = "ascii"


def shown(where: io.StringIO, monkeypatch: pytest.MonkeyPatch, seconds: float) -> str:
    """What 100 steps of 0.5 GB write, each taking so long."""
    now = [0.0]
    monkeypatch.setattr("cli.progress.time.monotonic", lambda: now[0])
    monkeypatch.setattr(sys, "stderr", where)
    progress = Progress("Some-72B-nf4", quiet=False)
    progress.begin(50 * 10**9, 0)
    for step in range(100):
        now[0] += seconds
        progress.advance(f"layer-{step:03}.safetensors", 5 * 10**8)
    progress.clear()
    return where.getvalue()


def test_a_terminal_has_one_line_that_is_rewritten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    said = shown(Terminal(), monkeypatch, 1.0)
    assert "\n" not in said
    lines = [line for line in said.split("\r") if line.strip()]
    assert lines[36] == "Some-72B-nf4  37% ▕████      ▏ 18.5/50.0 GB  500 MB/s  1m03s  layer-036"
    assert all(len(line) < 100 for line in lines)
    assert said.endswith("\r")


@pytest.mark.parametrize(("columns", "line"), [
    (90, "Some-72B-nf4  37% ▕████      ▏ 18.5/50.0 GB  500 MB/s  1m03s  layer-036"),
    (70, "Some-72B-nf4  37% ▕████      ▏ 18.5/50.0 GB  500 MB/s  1m03s"),
    (50, "Some-72B-nf4  37% 18.5/50.0 GB  500 MB/s  1m03s"),
    (40, "Some  37% 18.5/50.0 GB  500 MB/s  1m03s"),
    (35, "37% 18.5/50.0 GB  500 MB/s  1m03s"), (32, "37%"), (3, ""),
])
def test_a_name_is_cut_and_a_number_never(columns: int, line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", str(columns))
    said = shown(Terminal(), monkeypatch, 1.0)
    lines = [text for text in said.split("\r") if text.strip()]
    assert ([*lines, *[""] * 37])[36] == line
    assert all(len(text) < columns for text in said.split("\r"))


def test_a_bar_is_of_what_the_encoding_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setattr(Terminal, "encoding", "latin-1")
    said = shown(Terminal(), monkeypatch, 1.0)
    assert "Some-72B-nf4  37% [####      ] 18.5/50.0 GB" in said
    assert said.isascii()


def test_elsewhere_a_line_is_written_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = shown(Log(), monkeypatch, 1.0).splitlines()
    assert len(lines) == 20
    assert lines[0] == "Some-72B-nf4   5% 2.5/50.0 GB  500 MB/s  1m35s  layer-004"
    assert 20 <= len(shown(Log(), monkeypatch, 20.0).splitlines()) <= 60
    assert len(shown(Log(), monkeypatch, 0.01).splitlines()) == 0


def test_a_dumb_terminal_and_a_variable_are_respected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    assert "\r" not in shown(Terminal(), monkeypatch, 1.0)
    monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    assert shown(Terminal(), monkeypatch, 1.0) == ""


@pytest.mark.parametrize(("seconds", "words"), [(0.4, "0s"), (59.4, "59s"), (61, "1m01s"), (991, "16m31s"), (4321, "1h12m"),
                                                (99 * 3600, "99h00m"), (10**6, "99h+"), (1e300, "99h+")])
def test_durations_have_two_units_at_most(seconds: float, words: str) -> None:
    assert duration(seconds) == words
