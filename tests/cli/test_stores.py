"""Running a converted model: streamed, refused, damaged."""

import json
import shutil
from pathlib import Path

import pytest

from tests.cli.conftest import Specexec, least
from tests.offload.test_store import flip

ANSWER = ("run", "Once upon a time", "-n", "30", "--seed", "7", "--temperature", "1", "--json")


def answer(specexec: Specexec, *arguments: str) -> dict[str, object]:
    found: dict[str, object] = json.loads(specexec(*ANSWER, *arguments).out)
    return found


@pytest.mark.parametrize("streams", [False, True])
def test_a_store_writes_what_the_model_quantised_at_load_writes(
    specexec: Specexec, bundled_store: Path, streams: bool
) -> None:
    ram = least(bundled_store) if streams else 2**33
    found = answer(specexec, "-m", str(bundled_store), "--ram", str(ram))
    wanted = answer(specexec, "--quant", "nf4", "--draft", "none")
    assert found["token_ids"] == wanted["token_ids"]
    assert wanted["streamed_bytes"] == 0
    layers = sum(path.stat().st_size for path in bundled_store.glob("layer-*"))
    assert found["streamed_bytes"] == (layers * int(str(found["target_passes"])) if streams else 0)


def test_figures_name_what_was_streamed(specexec: Specexec, bundled_store: Path) -> None:
    given = ("run", "Once", "-n", "3", "--stats", "-m", str(bundled_store), "--ram")
    assert "MB streamed" in specexec(*given, str(least(bundled_store))).err
    assert "streamed" not in specexec(*given, "8GiB").err


def test_too_little_memory_is_refused_with_the_least_that_works(specexec: Specexec, bundled_store: Path) -> None:
    ran = specexec(*ANSWER, "-m", str(bundled_store), "--ram", str(least(bundled_store) - 1))
    assert (ran.code, ran.out, ran.err.count("\n")) == (3, "", 2)
    named = ran.err.split("--ram ")[1].split(",")[0]
    assert specexec(*ANSWER, "-m", str(bundled_store), "--ram", named).code == 0
    assert specexec(*ANSWER, "-m", str(bundled_store), "--ram", str(least(bundled_store))).code == 0


FILES = ("layer-003.safetensors", "head.safetensors", "embedding.safetensors", "config.json", "tokenizer.json")


@pytest.mark.parametrize("streams", [False, True], ids=["stays", "streams"])
@pytest.mark.parametrize("how", ["flipped", "cut", "longer", "missing"])
@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_never_yields_text(
    specexec: Specexec, bundled_store: Path, name: str, how: str, streams: bool, tmp_path: Path
) -> None:
    damaged = shutil.copytree(bundled_store, tmp_path / "damaged")
    path, size = damaged / name, (damaged / name).stat().st_size
    {"flipped": lambda: flip(path, size // 2), "cut": lambda: path.write_bytes(path.read_bytes()[:-4096]),
     "longer": lambda: path.write_bytes(path.read_bytes() + bytes(4096)), "missing": path.unlink}[how]()
    ram = least(bundled_store) if streams else 2**33
    ran = specexec("run", "Once upon a time", "-n", "3", "-m", str(damaged), "--ram", str(ram))
    assert (ran.code, ran.out, ran.err.count("\n")) == (5, "", 2)
    assert name in ran.err


def test_a_tied_store_in_bf16_streams_with_its_embedding_as_head(specexec: Specexec, tmp_path: Path) -> None:
    path = tmp_path / "bundled-bf16"
    assert specexec("convert", "bundled", "--to", "bf16", "--out", str(path), "-q").code == 0
    found = [answer(specexec, "-m", str(path), "--ram", str(ram)) for ram in (2**33, least(path))]
    assert found[0]["token_ids"] == found[1]["token_ids"]
    assert found[0]["streamed_bytes"] == 0
    assert found[1]["streamed_bytes"]
