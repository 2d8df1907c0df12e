"""Running a converted model: streamed, refused, damaged."""

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from cli.engines import Making
from cli.models import TREE, ModelOptions
from cli.values import Nodes
from offload.lane import Device
from offload.plan import SLOTS
from offload.store import Store
from tests.cli.conftest import Specexec, least
from tests.offload.device import EagerLane, FakeDevice, vram_for
from tests.offload.test_store import flip

ANSWER = ("run", "Once upon a time", "-n", "30", "--seed", "7", "--temperature", "1", "--json")


def answer(specexec: Specexec, *arguments: str) -> dict[str, object]:
    ran = specexec(*ANSWER, *arguments)
    assert ran.code == 0, ran.err
    found: dict[str, object] = json.loads(ran.out)
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
    assert "MB/s read" in specexec(*given, str(least(bundled_store))).err
    assert "/s read" not in specexec(*given, "8GiB").err


def test_what_quantises_at_load_says_that_a_store_is_quantised_already(specexec: Specexec, bundled_store: Path) -> None:
    ran = specexec("run", "Once", "-n", "3", "-m", str(bundled_store), "--quant", "int8")
    assert (ran.code, ran.err) == (0, f"--quant int8: {bundled_store} is converted already, so it is ignored\n")


def test_too_little_memory_is_refused_with_the_least_that_works(specexec: Specexec, bundled_store: Path) -> None:
    ran = specexec(*ANSWER, "--kv", "bf16", "-m", str(bundled_store), "--ram", str(least(bundled_store) - 1))
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


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
@pytest.mark.parametrize(("options", "code", "said"), [
    (("--device", "cuda"), 2, "no cuda device"),
    (("--vram", "8GiB"), 2, "--vram: this machine has no CUDA device"),
    (("--vram", "8GiB", "--device", "cpu"), 2, "--device is cpu"),
    (("--vram", "much"), 2, "much is no size"),
])
def test_a_device_that_is_not_there_is_told_in_two_lines(
    specexec: Specexec, bundled_store: Path, options: tuple[str, ...], code: int, said: str
) -> None:
    ran = specexec(*ANSWER, "-m", str(bundled_store), *options)
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


def test_a_tree_on_a_device_is_as_large_as_costs_it_few_layers(specexec: Specexec, tmp_path: Path) -> None:
    path = tmp_path / "int8"
    assert specexec("convert", "bundled", "--to", "int8", "--out", str(path), "--layout", "rowmajor", "-q").code == 0
    store, making = Store(path), Making(Store(path), ModelOptions(str(path), context=512), 2048, lambda: False)

    def nodes(vram: int, of: Making = making) -> int:
        return of.roomiest(store, 512, vram, torch.float32)[0] - 1

    whole, none = making.device_placement(store, 512, 2**40, torch.float32).device_bytes, vram_for(making, 1, torch.float32)
    assert nodes(2**40) == Nodes.LARGEST
    assert nodes(whole) == nodes(none) == TREE - 1, "a larger one would make more layers stream, or leave them no room"
    assert nodes(2**40, replace(making, options=replace(making.options, nodes=300))) == 300


def test_a_store_on_a_device_writes_what_it_writes_on_the_cpu_whatever_fits(
    specexec: Specexec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_exit: None
) -> None:
    """All of the command's way to a device, on one that is played."""
    path = tmp_path / "int8"
    assert specexec("convert", "bundled", "--to", "int8", "--out", str(path), "--layout", "rowmajor", "-q").code == 0
    wanted = answer(specexec, "-m", str(path), "--device", "cpu", "--dtype", "fp32")
    played = FakeDevice(0)
    device = Device(torch.device("cpu:0"), played.copies, EagerLane(played), played.lock)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("cli.engines.store_device", lambda store, options: device.place)
    monkeypatch.setattr("cli.engines.cuda", lambda place: device)
    monkeypatch.setattr("cli.engines.free_vram", lambda place: 2**40)
    asked = ("-m", str(path), "--draft", "lookup", "--ctx-size", "512", "--dtype", "fp32")
    store = Store(path)
    making = Making(store, ModelOptions(str(path), context=512), 2048, lambda: False)
    vram = vram_for(making, 1, torch.float32)
    memory, layer = making.device_placement(store, 512, vram, torch.float32).bytes, store.entry(store.layers[0]).nbytes
    fits, passes, streams = (), ("--vram", str(vram)), ("--vram", str(vram), "--ram", str(memory - 3 * layer))
    for options, passing, read in ((fits, 0, 0), (passes, 5, 0), (streams, SLOTS, 5)):
        played.most_locked = 0
        found = answer(specexec, *asked, *options)
        assert found["token_ids"] == wanted["token_ids"]
        assert found["streamed_bytes"] == read * layer * int(str(found["target_passes"]))
        assert played.most_locked == passing * layer
        assert not played.locked
