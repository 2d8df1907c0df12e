"""--kv-place: the same text wherever keys and values are, what the ledger says of it, and two lines for what cannot be."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cli.engines import Making
from cli.ledger import planned
from cli.models import ModelOptions
from offload.device_plan import on_device, plan_device
from offload.errors import TooLittleMemory
from offload.footprint import KV_BLOCK, KV_STAYS, footprint
from offload.lane import Device
from offload.machine import Machine
from offload.plan import Demand, plan
from offload.predict import predict
from offload.store import Store
from specexec.kv.backing import BLOCK, KEPT, STEP, Offloaded
from specexec.kv.dense import DenseCache
from specexec.kv.hierarchical_dense import HierarchicalDense
from tests.cli.conftest import Specexec
from tests.cli.test_errors import assert_refused
from tests.cli.test_plan import LLAMA_70B
from tests.kernels import need
from tests.offload.device import EagerLane, FakeDevice

GIB = 2**30
OF = footprint(LLAMA_70B, "nf4")
MACHINE = Machine(64 * GIB, None, 2e9, None, {64: 3e11, 512: 3e11})
ASKED = ("--seed", "3", "--temperature", "1", "-n", "40", "--json", "-q", "--ctx-size", "1024", "Once upon a time " * 110)


def said(specexec: Specexec, *options: str) -> dict[str, object]:
    code, out, err = specexec("run", *options, *ASKED)
    assert (code, err) == (0, "")
    found: dict[str, object] = json.loads(out)
    return found


@pytest.fixture(scope="module")
def tiles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from cli.main import main

    need()
    path = tmp_path_factory.mktemp("stores") / "tiles"
    assert main(["convert", "bundled", "--to", "int8", "--out", str(path), "--layout", "tile16", "-q"]) == 0
    return path


@pytest.mark.parametrize("kv", ["auto", "int8", "int4"])
def test_one_text_in_every_place_and_for_every_draft(specexec: Specexec, tiles: Path, at_exit: None, kv: str) -> None:
    drafts = (("none",), *((name, "--budget", "8") for name in ("lookup", "self", "bundled")))
    ways = [("auto", ("none",)), ("host", ("none",)), *(("disk", draft) for draft in drafts), ("device", ("self",))]
    texts = [said(specexec, "-m", str(tiles), "--kv", kv, "--kv-place", place, "--draft", *draft)["token_ids"]
             for place, draft in ways]
    assert len(set(map(str, texts))) == 1
    assert not list(tiles.parent.glob(".specexec-kv-*"))


@pytest.mark.parametrize(("given", "named", "hint"), [
    (("--kv-place", "disk"), "converted model", "--kv-place auto"),
    (("--kv-place", "nowhere"), "nowhere", "--help"),
    (("--kv-place", "disk", "--kv", "int8", "--draft", "self", "--draft-kv", "int4", "-m", "TILES"), "reads it again",
     "--draft-kv retrieval"),
])
def test_what_cannot_be_is_refused(specexec: Specexec, tiles: Path, given: tuple[str, ...], named: str, hint: str) -> None:
    assert_refused(specexec("run", *(str(tiles) if part == "TILES" else part for part in given), "Once"), named, hint)


def test_a_disk_that_is_too_small_is_told_before_anything_is_read(
    specexec: Specexec, tiles: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("offload.scratch.shutil.disk_usage", lambda folder: type("Usage", (), {"free": 1000}))
    code, out, err = specexec("run", "-m", str(tiles), "--kv-place", "disk", "Once")
    assert (code, out, err.count("\n")) == (3, "", 2)
    assert "--kv-place host" in err


# --- the ledger


def test_what_stays_is_counted_as_the_caches_keep_it() -> None:
    assert (KV_BLOCK, KV_STAYS) == (BLOCK, KEPT + STEP)


def test_a_refusal_names_the_disk_where_that_would_fit_and_it_does() -> None:
    wanted, ram = Demand(2**17, 512, prompt=1024), 8 * GIB
    with pytest.raises(TooLittleMemory) as refused:
        planned(OF, ram, wanted, "auto")
    assert refused.value.hint.endswith(", or --kv-place disk")
    placed = planned(OF, ram, replace(wanted, place="disk"), "auto")
    assert placed.bytes <= ram
    assert (placed.kv, placed.place, placed.kv_disk) == ("bf16", "disk", OF.kv_token * (2**17 + 512))
    assert planned(OF, least_ram(replace(wanted, place="disk", kv="int8")), replace(wanted, place="disk"), "auto").kv == "int8"


def least_ram(wanted: Demand) -> int:
    """What it just fits in."""
    with pytest.raises(TooLittleMemory) as refused:
        plan(OF, 0, wanted)
    return int(float(refused.value.hint.split("GiB")[0].split()[-1]) * GIB)


@given(context=st.integers(1024, 2**17), ram=st.integers(6 * GIB, 64 * GIB),
       of=st.sampled_from([("bf16", 1), ("int8", (1 + 4 / 128) / 2), ("int4", (0.5 + 4 / 128) / 2)]))
def test_a_pass_reads_of_the_disk_what_is_filled(context: int, ram: int, of: tuple[str, float]) -> None:
    kv, share = of
    placed = plan(OF, ram, Demand(2**17, 512, place="disk", kv=kv))
    found = predict(OF, placed, MACHINE, 1, context)
    assert found.stream == pytest.approx((placed.streamed + share * OF.kv_token * context) / 2e9)
    assert placed.kv_disk == pytest.approx(share * OF.kv_token * 2**17, rel=0.01)


def test_plan_and_run_agree_on_it(specexec: Specexec, tiles: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cli.engines.prompt_chunk", lambda *given: 256)
    monkeypatch.setattr("cli.forecast.chunk", lambda *given: 256)
    monkeypatch.setattr("cli.forecast.measure", lambda *given: MACHINE)
    monkeypatch.setattr("cli.forecast.products", lambda *given: MACHINE.products)
    code, out, _ = specexec("plan", str(tiles), "--kv-place", "disk", "--draft", "none", "--ctx-size", "1024", "--json", "-q")
    assert code == 0
    options = ModelOptions(kv_place="disk", context=1024)
    placed = Making(Store(tiles), options, 2048, lambda: False).placement(Store(tiles), 1024)
    found = json.loads(out)
    assert found["ledger"] == {entry.what: entry.bytes for entry in placed.ledger}
    assert found["kv_disk_bytes"] == placed.kv_disk > 0


# --- beside a device


def shape(demand: Demand) -> tuple[object, ...]:
    return OF, on_device(LLAMA_70B, OF, demand, 2, 2**17)


@given(context=st.integers(1, 2**17), vram=st.integers(8 * GIB, 48 * GIB), ram=st.integers(8 * GIB, 128 * GIB))
def test_on_the_host_it_takes_page_locked_memory_and_two_layers_of_the_device_s(context: int, vram: int, ram: int) -> None:
    wanted = Demand(context, 512, place="host")
    try:
        placed = plan_device(*shape(wanted), ram, vram, wanted)  # type: ignore[arg-type]
    except TooLittleMemory:
        return
    sizes = {entry.what: entry.bytes for entry in (*placed.ledger, *placed.vram)}
    assert placed.bytes <= ram
    assert placed.device_bytes <= vram
    assert sizes["page-locked KV cache"] == OF.kv_token * (context + 512)
    assert sizes["KV cache's part in GPU memory"] < OF.kv_token * (context // 39 + 512 + 900)
    assert placed.place == "host"


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from cli.main import main

    path = tmp_path_factory.mktemp("stores") / "rows"
    assert main(["convert", "bundled", "--to", "int8", "--out", str(path), "--layout", "rowmajor", "-q"]) == 0
    return path


@pytest.mark.parametrize(("place", "kv"), [("device", "auto"), ("host", "auto"), ("auto", "auto"), ("device", "int8"),
                                           ("host", "int8"), ("auto", "int4")])
def test_all_of_the_way_to_a_device_that_is_played(
    specexec: Specexec, rows: Path, monkeypatch: pytest.MonkeyPatch, at_exit: None, place: str, kv: str
) -> None:
    played = FakeDevice(0)
    device = Device(torch.device("cpu:0"), played.copies, EagerLane(played), played.lock)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("cli.engines.store_device", lambda store, options: device.place)
    monkeypatch.setattr("cli.engines.cuda", lambda place: device)
    monkeypatch.setattr("cli.models.TREE", 32)
    making = Making(Store(rows), ModelOptions(str(rows), context=1024, kv=kv, kv_place=place), 2048, lambda: False)
    needs = {where: least(replace(making, options=replace(making.options, kv_place=where))) for where in ("device", "host")}
    assert kv != "auto" or needs["host"] < needs["device"], "of so few rows what stays takes more in the smaller formats"
    vram = needs.get(place, min(needs.values()))
    monkeypatch.setattr("cli.engines.free_vram", lambda place: vram)
    caches = caught(monkeypatch)
    drafts = [("lookup", "--budget", "8"), *([("none",)] if place == "host" else [])]
    found = [said(specexec, "-m", str(rows), "--kv", kv, "--kv-place", place, "--dtype", "fp32", "--draft", *draft)["token_ids"]
             for draft in drafts]
    planned = next(e.bytes for e in making.device_placement(Store(rows), 1024, vram, torch.float32).vram if "KV" in e.what)
    monkeypatch.undo()
    wanted = said(specexec, "-m", str(rows), "--kv", kv, "--dtype", "fp32", "--draft", "none")["token_ids"]
    assert found == [wanted] * len(drafts)
    for cache in caches:
        assert isinstance(cache, Offloaded) == ((place, kv) in {("host", "auto"), ("host", "int8"), ("auto", "auto")})
        assert isinstance(cache, HierarchicalDense) == (kv != "auto")
        assert 0 < cache.nbytes <= planned


def caught(monkeypatch: pytest.MonkeyPatch) -> list[DenseCache]:
    """The caches that are made."""
    from cli import engines

    made, of_device = list[DenseCache](), engines.of_device
    monkeypatch.setattr("cli.engines.of_device", lambda *given: made.append(of_device(*given)) or made[-1])
    return made


def least(making: Making) -> int:
    """--vram in which it just fits, but for a few kilobytes."""
    assert isinstance(making.model, Store)
    low, high = GIB // 2, 4 * GIB
    while high - low > 2**13:
        middle = (low + high) // 2
        try:
            making.device_placement(making.model, 1024, middle, torch.float32)
            high = middle
        except TooLittleMemory:
            low = middle
    return high
