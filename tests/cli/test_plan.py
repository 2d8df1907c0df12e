"""`plan` as a person meets it: a ledger that adds up, figures that follow from it, and the two lines of every mistake."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from cli.forecast import ROWS
from cli.ledger import view_bytes
from cli.models import TREE
from cli.prospect import prospect
from cli.subject import configured
from offload.disk import PREFIX, Sample
from offload.errors import TooLittleMemory
from offload.footprint import footprint
from offload.machine import FEW, QUERIES, Arithmetic, Calls, attention, layer, measure, products
from offload.measured import Measured
from offload.plan import Demand, plan
from offload.predict import arithmetic
from specexec.engines import attention_rate, layer_rate, rate
from specexec.kernels.library import REFERENCE, instruction_set, load
from tests.cli.conftest import Specexec
from tests.cli.test_errors import assert_two_lines
from tests.models import saved

GIB = 2**30
LAYOUT = "tile16" if load() else "rowmajor"
LLAMA_70B = {
    "model_type": "llama", "hidden_size": 8192, "intermediate_size": 28672, "num_hidden_layers": 80, "num_attention_heads": 64,
    "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 128256, "max_position_embeddings": 131072}
LLAMA_1B = LLAMA_70B | {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32,
                        "head_dim": 64}


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home in which everything was measured, for real, but in milliseconds."""
    home = tmp_path_factory.mktemp("measured")
    cache = Measured(home / "machine.json")
    forms = [("nf4", LAYOUT, 16), ("nf4", LAYOUT, 8), ("nf4", "rowmajor", 16), ("int8", LAYOUT, 16), ("int8", LAYOUT, 8),
             ("3bit", LAYOUT, 16), ("3bit", LAYOUT, 8), ("q8_0", LAYOUT, 8), ("bf16", None, 16), ("fp32", None, 16)]
    quick = [Arithmetic(rate.name(*form), partial(rate.rates, *form, rows=512, columns=1024, weights=2**16, seconds=0.01))
             for form in forms]
    measure(cache, Sample(home, read=2**22), quick[0])
    for form in quick[1:]:
        products(cache, form)
    for layout in (LAYOUT, "rowmajor"):
        for bits in (16, 8, 4) if layout == "tile16" else (16,):
            _see(cache, layout, bits)
        for bits in (16, 4) if layout == "tile16" else ():
            _see(cache, layout, bits, ROWS, FEW)
    for bits in (16, 8) if LAYOUT == "tile16" else ():
        layer(cache, Calls(layer_rate.name(bits), partial(layer_rate.seconds, bits, 2**16)))
    return home


def _see(cache: Measured, layout: str, bits: int, chosen: int | None = None, counts: Sequence[int] = QUERIES) -> None:
    quick = partial(attention_rate.rates, layout, rows=2 * ROWS if chosen else 256, seconds=0.01, bits=bits, together=2**22,
                    chosen=chosen)
    attention(cache, Arithmetic(attention_rate.name(layout, bits, chosen), quick), counts)


@pytest.fixture(autouse=True)
def home(measured: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SPECEXEC_HOME", str(measured))
    return measured


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(LLAMA_70B))
    return path


@pytest.fixture
def one_b(tmp_path: Path) -> Path:
    path = tmp_path / "1b.json"
    path.write_text(json.dumps(LLAMA_1B))
    return path


def planned(specexec: Specexec, *arguments: str) -> dict[str, Any]:
    ran = specexec("plan", *arguments, "--json")
    assert (ran.code, ran.err) == (0, "")
    found: dict[str, Any] = json.loads(ran.out)
    return found


# --- the ledger


def test_a_configuration_alone_has_the_ledger_that_would_be_used(llama: Path, specexec: Specexec) -> None:
    found = planned(specexec, str(llama), "--ram", "20GiB")
    placed = plan(footprint(LLAMA_70B, "nf4"), 20 * GIB, Demand(8192, 2 * TREE))
    assert found["ledger"] == {entry.what: entry.bytes for entry in placed.ledger}
    assert sum(found["ledger"].values()) == found["ledger_bytes"] <= 20 * GIB == found["machine"]["ram_bytes"]
    assert (found["layers"], found["layers_in_memory"], found["streamed_bytes"]) == (80, placed.pinned, placed.streamed)
    assert found["streamed_bytes"] + found["ledger"]["layers in memory"] == 80 * footprint(LLAMA_70B, "nf4").layer
    assert 36 * GIB < found["model_bytes"] < 40 * GIB


def test_a_person_reads_the_same_as_a_program(llama: Path, specexec: Specexec) -> None:
    found, ran = planned(specexec, str(llama), "--ram", "20GiB"), specexec("plan", str(llama), "--ram", "20GiB")
    assert (ran.code, ran.err) == (0, "")
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in ran.out.splitlines() if line.startswith("|")]
    ledger = {row[0]: float(row[1]) for row in rows[2 : 2 + len(found["ledger"])]}
    assert ledger == {what: round(count / GIB, 2) for what, count in found["ledger"].items()}
    assert ["together, of 20.00", f"{found['ledger_bytes'] / GIB:.2f}"] in rows
    away = 80 - found["layers_in_memory"]
    assert f"{away} are read from disk in every pass: {found['streamed_bytes'] / GIB:.2f} GiB" in ran.out
    speeds = {row[0]: row for row in rows if len(row) == 7}
    assert float(speeds["0"][1].replace(",", "")) == pytest.approx(found["plain"]["pass_seconds"], rel=0.01)
    for cell in found["speculative"]:
        column = 4 + (4, 8, 12).index(cell["tokens_per_pass"])
        assert float(speeds[str(cell["nodes"])][column].replace(",", "")) == pytest.approx(cell["tokens_per_second"], rel=0.01)
    assert "assumptions" in ran.out


def test_a_store_has_the_ledger_of_run(tmp_path: Path, specexec: Specexec) -> None:
    from cli.engines import Making
    from cli.models import ModelOptions
    from offload.store import Store

    place = tmp_path / "bundled-nf4"
    specexec("convert", "bundled", "--out", str(place), "-q", "--layout", LAYOUT)
    found = planned(specexec, str(place), "--ram", "2GiB", "--draft", "none")
    store = Store(place)
    placed = Making(store, ModelOptions(ram=2 * GIB), 1, lambda: False).placement(store, 1024)
    assert found["ledger"] == {entry.what: entry.bytes for entry in placed.ledger}
    assert found["model_bytes"] == store.nbytes
    assert (found["format"], found["ctx_size"], found["layers_in_memory"]) == ("nf4", 1024, 6)


@pytest.mark.skipif(LAYOUT == "rowmajor", reason="a copy is for the kernels")
def test_a_low_bit_copy_is_in_the_ledger_and_in_the_seconds(llama: Path, specexec: Specexec) -> None:
    given = (str(llama), "--ram", "34GiB", "--kv", "bf16")
    copied, alone = planned(specexec, *given, "--draft", "self:3bit"), planned(specexec, *given, "--draft", "lookup")
    assert copied["ledger_bytes"] <= 34 * GIB
    assert copied["layers_in_memory"] < alone["layers_in_memory"]
    away = 80 - copied["layers_in_memory"]
    assert copied["ledger"]["low-bit copy of the others"] == away * footprint(LLAMA_70B, "3bit").layer
    assert all(cell["draft_seconds"] > 0 for cell in copied["speculative"])
    assert all(cell["draft_seconds"] == 0 for cell in alone["speculative"])
    assert "the low-bit copy is not there yet" in " ".join(copied["remarks"])
    ran = specexec("plan", str(llama), "--ram", "20GiB", "--draft", "self:3bit")
    assert (ran.code, ran.out) == (3, "")
    assert_two_lines(ran.err, "of memory at the least", "--draft lookup: the copy of all layers takes 26GiB")


@pytest.mark.skipif(LAYOUT == "rowmajor", reason="a copy is for the kernels")
def test_a_store_with_a_copy_needs_no_other(tmp_path: Path, specexec: Specexec) -> None:
    specexec("convert", "bundled", "--copy", "3bit", "--out", str(tmp_path / "copied"), "-q", "--layout", LAYOUT)
    found = planned(specexec, str(tmp_path / "copied"), "--draft", "self:3bit")
    assert not any("not there yet" in remark for remark in found["remarks"])
    ran = specexec("plan", str(tmp_path / "copied"), "--draft", "self:2bit")
    assert_two_lines(ran.err, "self:2bit", "--draft self:3bit")


def test_bundled_and_folders_are_planned_as_they_would_be_converted(specexec: Specexec) -> None:
    folder = str(saved("llama"))
    specexec("--version")  # forgets what was printed while it was made
    found = planned(specexec, "bundled")
    assert (found["model"], found["format"], found["draft"]) == ("bundled", "nf4", ["bundled"])
    assert found["ledger"]["draft"] > 0
    assert found["plain"]["limit"] == "arithmetic"
    assert any("small" in remark for remark in found["remarks"])
    sizes = [planned(specexec, folder, "--to", kind)["model_bytes"] for kind in ("nf4", "int8", "bf16")]
    assert sizes == sorted(sizes)


def test_a_draft_takes_memory_and_time(llama: Path, one_b: Path, specexec: Specexec) -> None:
    without = planned(specexec, str(llama), "--ram", "20GiB")
    found = planned(specexec, str(llama), "--ram", "20GiB", "--draft", str(one_b))
    assert (without["ledger"]["draft"], without["draft"]) == (0, [])
    of = footprint(LLAMA_1B, "nf4")
    assert found["ledger"]["draft"] == of.weights + of.kv_token * (8192 + 8 * TREE) + of.work_token * 2 * TREE
    assert found["streamed_bytes"] > without["streamed_bytes"]
    assert all(cell["draft_seconds"] > 0 for cell in found["speculative"])
    assert not any(cell["draft_seconds"] for cell in without["speculative"])


def test_context_and_format_are_in_the_ledger(llama: Path, specexec: Specexec) -> None:
    short, long = (planned(specexec, str(llama), "--ram", "24GiB", "--ctx-size", size) for size in ("4096", "16384"))
    assert long["ledger"]["KV cache"] - short["ledger"]["KV cache"] == (16384 - 4096) * 80 * 2 * 8 * 128 * 2
    eight = planned(specexec, str(llama), "--ram", "24GiB", "--to", "int8")
    assert eight["streamed_bytes"] > 1.9 * short["streamed_bytes"]


# --- the figures


def test_figures_follow_from_what_was_measured(llama: Path, specexec: Specexec) -> None:
    found = planned(specexec, str(llama), "--ram", "20GiB")
    machine, plain, of = found["machine"], found["plain"], footprint(LLAMA_70B, "nf4")
    rates = {int(n): speed for n, speed in machine["weights_per_second"].items()}
    assert plain["stream_seconds"] == pytest.approx(found["streamed_bytes"] / machine["disk_bytes_per_second"])
    assert plain["arithmetic_seconds"] == pytest.approx(of.multiplied / rates[1])
    seeing = {int(n): speed for n, speed in machine["attention_bytes_per_second"]["bf16"].items()}
    kv = of.kv_token * found["ctx_size"]
    assert (found["kv_bytes"], of.group) == (kv, 8)
    assert plain["attention_seconds"] == pytest.approx(arithmetic(kv, seeing, 8))
    assert plain["calls_seconds"] == pytest.approx(80 * machine["layer_seconds"])
    assert (machine["layer_seconds"] > 0) == (LAYOUT == "tile16")
    computing = plain["arithmetic_seconds"] + plain["attention_seconds"] + plain["calls_seconds"]
    assert plain["pass_seconds"] == max(plain["stream_seconds"], computing)
    assert plain["tokens_per_second"] == 1 / plain["pass_seconds"]
    for cell in found["speculative"]:
        tokens = cell["nodes"] + 1
        computing = arithmetic(of.multiplied, rates, tokens) + arithmetic(kv, seeing, 8 * tokens) + plain["calls_seconds"]
        wanted = max(plain["stream_seconds"], computing)
        assert cell["pass_seconds"] == pytest.approx(wanted)
        assert cell["tokens_per_second"] == pytest.approx(cell["tokens_per_pass"] / wanted)


def test_a_longer_context_takes_longer_and_says_where_it_begins_to_count(one_b: Path, specexec: Specexec) -> None:
    found = [planned(specexec, str(one_b), "--kv", "bf16", "--ctx-size", str(size)) for size in (4096, 16384, 65536)]
    of = footprint(LLAMA_1B, "nf4")
    assert [made["kv_bytes"] for made in found] == [of.kv_token * size for size in (4096, 16384, 65536)]
    took = [made["plain"]["attention_seconds"] for made in found]
    assert took == pytest.approx([took[0], 4 * took[0], 16 * took[0]])
    crossings = found[0]["crossings"]
    assert crossings == found[2]["crossings"]
    assert crossings["bytes"] == -(-(of.layers * of.layer + of.head) // of.kv_token)
    assert crossings["who"] == str(one_b), "it stays in memory: it would draft for itself"
    a_token = took[0] / 4096
    wanted = int(found[0]["plain"]["arithmetic_seconds"] / a_token) + 1
    assert crossings["seconds"] == (pytest.approx(wanted, abs=2) if wanted <= 131072 else None)
    said = specexec("plan", str(one_b), "--kv", "bf16", "--ctx-size", "65536").out
    size = of.kv_token * 65536 / GIB
    assert f"{size:.2f} GiB for 65,536 tokens; as large as the weights from {crossings['bytes']:,} on" in said


def test_a_draft_of_a_long_context_has_a_view_in_the_ledger(llama: Path, one_b: Path, specexec: Specexec) -> None:
    """And where the target streams it is the draft that would draft for itself."""
    given = (str(llama), "--ram", "40GiB", "--draft", str(one_b))
    short, long = (planned(specexec, *given, "--ctx-size", size) for size in ("8192", "16384"))
    of = footprint(LLAMA_1B, "nf4")
    assert long["ledger"]["draft"] - short["ledger"]["draft"] == of.kv_token * 8192 + view_bytes(of, 16384, TREE)
    assert long["crossings"]["who"] == str(one_b)


def test_a_chat_shows_its_ledger(specexec: Specexec, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", str(torch.get_num_threads()))  # as many as were measured, for so small a model too
    ran = specexec("chat", "--no-save", "--draft", "none", stdin=b"/plan\n")
    assert (ran.code, ran.out) == (0, "")
    assert "| in memory | GiB |" in ran.err
    assert "limit: " in ran.err


def test_what_would_help_is_named(llama: Path, specexec: Specexec) -> None:
    found = planned(specexec, str(llama), "--ram", "20GiB", "--activations", "16")["helps"]
    assert {"8 GiB more memory", "a disk twice as fast", "a processor twice as fast"} <= {help["change"] for help in found}
    assert found == sorted(found, key=lambda help: -help["factor"])
    if LAYOUT == "tile16":
        assert "--activations 8" in {help["change"] for help in found}
        fewer = planned(specexec, str(llama), "--ram", "20GiB")["helps"]
        assert "--activations 8" not in {help["change"] for help in fewer}


def test_a_store_in_rowmajor_says_what_the_reference_costs(tmp_path: Path, specexec: Specexec) -> None:
    place = tmp_path / "rowmajor"
    specexec("convert", "bundled", "--out", str(place), "-q", "--layout", "rowmajor")
    found = planned(specexec, str(place))
    assert any("reference" in remark and "s of arithmetic" in remark for remark in found["remarks"])


def test_without_kernels_the_reference_is_measured_and_said(llama: Path) -> None:
    ran = command("plan", str(llama), "--ram", "20GiB", "--json", SPECEXEC_KERNELS=REFERENCE)
    found = json.loads(ran.stdout)
    assert any(REFERENCE in remark and "s of arithmetic" in remark for remark in found["remarks"])
    assert found["plain"]["limit"] == "arithmetic"


# --- measuring


def test_a_machine_is_measured_once_and_again_when_asked(llama: Path, tmp_path: Path) -> None:
    arguments, where = ("plan", str(llama), "--ram", "20GiB", "--draft", "none"), {"SPECEXEC_HOME": str(tmp_path / "new")}
    first = command(*arguments, **where)
    assert first.returncode == 0
    assert "measuring disk" in first.stderr
    if instruction_set() != REFERENCE:
        assert "8-bit activations" in first.stderr
        assert "16-bit activations" not in first.stderr
    assert os.listdir(tmp_path / "new" / "models") == [], "files that were written to be read are gone"
    again = command(*arguments, **where)
    assert (again.returncode, again.stderr) == (0, "")
    assert again.stdout == first.stdout


def test_ctrl_c_leaves_nothing_behind(llama: Path, tmp_path: Path) -> None:
    home = tmp_path / "new"
    with started("plan", str(llama), "--ram", "20GiB", "--measure", SPECEXEC_HOME=str(home)) as running:
        until = time.monotonic() + 60
        while not list((home / "models").glob(f"{PREFIX}*/0")) and time.monotonic() < until:
            time.sleep(0.01)
        assert running.poll() is None
        running.send_signal(signal.SIGINT)
        out, err = running.communicate(timeout=60)
    assert (running.returncode, out) == (130, "")
    assert "Traceback" not in err
    assert list((home / "models").iterdir()) == []


def test_quiet_measures_without_a_word(llama: Path, home: Path, tmp_path: Path, specexec: Specexec) -> None:
    ran = specexec("plan", str(llama), "--ram", "20GiB", "-q")
    assert (ran.code, ran.err) == (0, "")


# --- mistakes


def test_too_little_memory_is_refused_before_anything_is_measured(
    llama: Path, tmp_path: Path, specexec: Specexec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPECEXEC_HOME", str(tmp_path / "unmeasured"))
    ran = specexec("plan", str(llama), "--ram", "2GiB")
    assert_two_lines(ran.err, "needs", "--ram")
    assert (ran.code, ran.out) == (3, "")
    assert not (tmp_path / "unmeasured").exists()


@pytest.mark.parametrize("ram", ["12GiB", "16GiB"])
def test_the_longest_context_that_fits_is_named(ram: str, llama: Path, specexec: Specexec) -> None:
    """By `plan` and by `run` alike: both refuse in the same words, and what they name works."""
    given = (str(llama), "--ram", ram, "--kv", "bf16", "--ctx-size")
    refused = specexec("plan", *given, "131072")
    assert_two_lines(refused.err, f"{ram} may be used", "--ram", "--ctx-size")
    assert (refused.code, refused.out) == (3, "")
    named = int(refused.err.split("--ctx-size ")[1].split(",")[0])
    assert planned(specexec, *given, str(named))["ctx_size"] == named
    assert specexec("plan", *given, str(named + 512)).code == 3


def test_the_least_that_is_named_works(llama: Path, specexec: Specexec) -> None:
    least = specexec("plan", str(llama), "--ram", "2GiB").err.split("--ram ")[1].split(",")[0]
    assert planned(specexec, str(llama), "--ram", least)["layers_in_memory"] == 0


WRONG = [
    (("plan",), 2, ("MODEL",)),
    (("plan", "no-such-model"), 4, ("no-such-model",)),
    (("plan", "./no-such-folder"), 4, ("no-such-folder",)),
    (("plan", "CONFIG", "--draft", "no-such-model"), 4, ("no-such-model",)),
    (("plan", "CONFIG", "--ctx-size", "999999"), 2, ("999,999", "131,072")),
    (("plan", "CONFIG", "--ram", "lots"), 2, ("--ram",)),
    (("plan", "CONFIG", "--to", "nf3"), 2, ("--to",)),
    (("plan", "CONFIG", "--activations", "4"), 2, ("--activations",)),
    (("plan", "CONFIG", "--mesure"), 2, ("Try: --measure",)),
    (("plan", "bundled", "--draft", "none", "--draft", "lookup"), 2, ("contradicts",)),
]


@pytest.mark.parametrize(("arguments", "code", "words"), WRONG)
def test_a_wrong_command_says_what_to_type(
    arguments: tuple[str, ...], code: int, words: tuple[str, ...], llama: Path, specexec: Specexec
) -> None:
    ran = specexec(*(argument.replace("CONFIG", str(llama)) for argument in arguments))
    assert_two_lines(ran.err, *words)
    assert (ran.code, ran.out) == (code, "")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_memory_of_a_device_that_is_not_here_is_refused(llama: Path, specexec: Specexec) -> None:
    ran = specexec("plan", str(llama), "--vram", "8GB")
    assert_two_lines(ran.err, "--vram", "CUDA")
    assert (ran.code, ran.out) == (2, "")


@pytest.mark.parametrize(("content", "code", "word"), [
    ("{", 5, "config.json"), ("[]", 5, "config.json"), ("\0", 5, "config.json"), ('{"model_type": "gpt2"}', 1, "gpt2"),
    (json.dumps(LLAMA_70B | {"num_hidden_layers": 0}), 5, "config.json"),
    (json.dumps(LLAMA_70B | {"num_hidden_layers": -1}), 5, "config.json"),
    (json.dumps(LLAMA_70B | {"num_attention_heads": 0}), 5, "config.json"),
    (json.dumps(LLAMA_70B | {"hidden_size": "wide"}), 5, "config.json"),
    (json.dumps(LLAMA_70B | {"vocab_size": 0}), 5, "config.json"),
])
def test_a_configuration_of_no_use_is_refused(content: str, code: int, word: str, llama: Path, specexec: Specexec) -> None:
    llama.write_text(content)
    ran = specexec("plan", str(llama))
    assert_two_lines(ran.err, word)
    assert (ran.code, ran.out) == (code, "")


def test_a_store_is_not_planned_as_something_else(tmp_path: Path, specexec: Specexec) -> None:
    place = tmp_path / "store"
    specexec("convert", "bundled", "--out", str(place), "-q")
    ran = specexec("plan", str(place), "--to", "int8")
    assert_two_lines(ran.err, "nf4", f"Try: specexec plan {place / 'config.json'} --to int8")
    assert ran.code == 2
    assert planned(specexec, str(place / "config.json"), "--to", "int8")["format"] == "int8"


def test_a_home_that_cannot_be_written_to_is_named(
    llama: Path, tmp_path: Path, specexec: Specexec, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SPECEXEC_HOME", str(tmp_path / "file"))
    ran = specexec("plan", str(llama), "--ram", "20GiB", "-q")
    assert_two_lines(ran.err, "SPECEXEC_HOME")
    assert (ran.code, ran.out) == (1, "")


def started(*arguments: str, **variables: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-m", "specexec", *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                            text=True, env=os.environ | variables)


def command(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    with started(*arguments, **variables) as running:
        out, err = running.communicate(timeout=120)
    return subprocess.CompletedProcess(arguments, running.returncode, out, err)


def test_one_line_of_a_model_that_is_not_here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    of = configured("org/name", LLAMA_1B, "nf4")
    said = prospect(of)
    assert re.fullmatch(r"16 of 16 layers stay in memory; predicted [\d.e+]+ tokens/s \(plain [\d.e+]+\); limit: \w+", said)
    monkeypatch.setattr("cli.prospect.free_memory", lambda: 2 * GIB)
    large = configured("org/name", LLAMA_70B, "nf4")
    with pytest.raises(TooLittleMemory):
        prospect(large)
    monkeypatch.setattr("cli.prospect.free_memory", lambda: 16 * GIB)
    assert re.match(r"\d+ of 80 layers stay in memory, \d+\.\d GB read from disk in every pass; ", prospect(large))
    monkeypatch.setenv("SPECEXEC_HOME", str(tmp_path))
    assert prospect(of).endswith("; specexec plan measures this machine and says how fast")
    assert not list(tmp_path.iterdir())
