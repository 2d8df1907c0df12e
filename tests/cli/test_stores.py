"""Running a converted model: streamed, refused, damaged."""

import json
from pathlib import Path

import pytest

from specexec.kernels.library import REFERENCE, instruction_set
from tests.cli.conftest import Specexec

ANSWER = ("run", "Once upon a time", "-n", "30", "--seed", "7", "--temperature", "1", "--json")
LAYOUT = "rowmajor" if instruction_set() == REFERENCE else "tile16"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from cli.main import main

    path = tmp_path_factory.mktemp("stores") / "bundled-nf4"
    assert main(["convert", "bundled", "--out", str(path), "--layout", LAYOUT, "-q"]) == 0
    return path


def ids(specexec: Specexec, *arguments: str) -> list[int]:
    found: list[int] = json.loads(specexec(*ANSWER, *arguments).out)["token_ids"]
    return found


@pytest.mark.parametrize("ram", ["8GiB", "0.75GiB"])
def test_a_store_writes_what_the_model_quantised_at_load_writes(specexec: Specexec, store: Path, ram: str) -> None:
    assert ids(specexec, "-m", str(store), "--ram", ram) == ids(specexec, "--quant", "nf4", "--draft", "none")


def test_too_little_memory_is_refused_with_the_least_that_works(specexec: Specexec, store: Path) -> None:
    ran = specexec(*ANSWER, "-m", str(store), "--ram", "600MiB")
    assert (ran.code, ran.out, ran.err.count("\n")) == (3, "", 2)
    least = ran.err.split("--ram ")[1].split(",")[0]
    assert specexec(*ANSWER, "-m", str(store), "--ram", least).code == 0


@pytest.mark.parametrize("ram", ["8GiB", "0.75GiB"])
def test_a_flipped_bit_in_a_layer_never_yields_text(specexec: Specexec, store: Path, ram: str, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    for file in store.iterdir():
        (damaged / file.name).write_bytes(file.read_bytes())
    layer = damaged / "layer-003.safetensors"
    content = bytearray(layer.read_bytes())
    content[200_000] ^= 1
    layer.write_bytes(content)
    ran = specexec(*ANSWER[:-1], "-m", str(damaged), "--ram", ram)
    assert (ran.code, ran.out, ran.err.count("\n")) == (5, "", 2)
    assert "layer-003" in ran.err
