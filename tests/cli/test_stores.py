"""Running a converted model: streamed, refused, damaged."""

import json
import sys
from pathlib import Path

import pytest
import torch

from cli.engines import Making
from cli.models import ModelOptions
from offload.lane import Device
from offload.store import Store
from specexec.kernels.library import REFERENCE, instruction_set
from tests.cli.conftest import Specexec
from tests.offload.device import EagerLane, FakeDevice, vram_for

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


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
@pytest.mark.parametrize(("options", "code", "said"), [
    (("--device", "cuda"), 2, "no cuda device"),
    (("--vram", "8GiB"), 2, "--vram: this machine has no cuda device"),
    (("--vram", "8GiB", "--device", "cpu"), 2, "--device is cpu"),
    (("--vram", "much"), 2, "much is no size"),
])
def test_a_device_that_is_not_there_is_told_in_two_lines(
    specexec: Specexec, store: Path, options: tuple[str, ...], code: int, said: str
) -> None:
    ran = specexec(*ANSWER, "-m", str(store), *options)
    assert (ran.code, ran.out, ran.err.count("\n")) == (code, "", 2)
    assert said in ran.err


@pytest.mark.parametrize("options", [("--device", "cuda"), ("--vram", "8GiB")])
def test_a_store_for_the_cpu_is_refused_with_the_command_that_makes_one_for_cuda(
    specexec: Specexec, tmp_path: Path, options: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "tiles"
    assert specexec("convert", "bundled", "--out", str(path), "--layout", "tile16", "-q").code == 0
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    ran = specexec(*ANSWER, "-m", str(path), *options)
    assert (ran.code, ran.out, ran.err.count("\n")) == (2, "", 2)
    assert f"specexec convert {path} --layout rowmajor" in ran.err


def test_vram_of_a_published_folder_is_refused_with_the_command_that_makes_a_store(
    specexec: Specexec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    ran = specexec(*ANSWER, "--vram", "8GiB")
    assert (ran.code, ran.out, ran.err.count("\n")) == (2, "", 2)
    assert "specexec convert " in ran.err


@pytest.mark.parametrize("kind", ["nf4", "int8"])
def test_nf4_on_cuda_without_bitsandbytes_names_what_to_install(
    specexec: Specexec, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / kind
    assert specexec("convert", "bundled", "--to", kind, "--out", str(path), "--layout", "rowmajor", "-q").code == 0
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)  # as where it is not installed
    ran = specexec(*ANSWER, "-m", str(path), "--device", "cuda", "--vram", "1MiB")
    assert (ran.code, ran.out, ran.err.count("\n")) == (2 if kind == "nf4" else 3, "", 2)
    assert ("bitsandbytes" in ran.err) == (kind == "nf4")
    assert ("--vram " in ran.err) == (kind == "int8")


def test_a_store_on_a_device_writes_what_it_writes_on_the_cpu_whatever_fits(
    specexec: Specexec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_exit: None
) -> None:
    """All of the command's way to a device, on one that is played."""
    path = tmp_path / "int8"
    assert specexec("convert", "bundled", "--to", "int8", "--out", str(path), "--layout", "rowmajor", "-q").code == 0
    wanted = ids(specexec, "-m", str(path), "--device", "cpu", "--dtype", "fp32")
    played = FakeDevice(0)
    device = Device(torch.device("cpu:0"), played.copies, EagerLane(played), played.lock)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("cli.engines.store_device", lambda store, options: device.place)
    monkeypatch.setattr("cli.engines.cuda", lambda place: device)
    monkeypatch.setattr("cli.engines.free_vram", lambda place: 2**40)
    asked = ("-m", str(path), "--ctx-size", "512", "--dtype", "fp32")
    assert ids(specexec, *asked) == wanted
    assert not played.locked, "all of it lies on the device"
    making = Making(Store(path), ModelOptions(str(path), context=512), 2048, lambda: False)
    assert ids(specexec, *asked, "--vram", str(vram_for(making, 1, torch.float32))) == wanted
    assert played.locked, "five layers pass through memory"
