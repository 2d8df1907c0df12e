"""Streaming on a CUDA device: what the fake device promises, of the real one."""

import json
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch

from cli.engines import Making
from cli.main import main
from cli.models import ModelOptions
from offload.buffer import Buffer
from offload.cuda import cuda, page_lock
from offload.device_plan import CUDA as CONTEXT
from offload.plan import Placement
from offload.store import Store
from offload.streamed import open_device_stream, open_streamer
from specexec.engines.families import admit
from specexec.engines.torch_engine import TorchEngine
from specexec.kv.dense import DenseCache
from specexec.kv.offloaded_dense import OffloadedDense
from tests.models import chain, read
from tests.offload.device import vram_for
from tests.offload.test_device_stream import LAYERS, placed

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")

CUDA = torch.device("cuda")
MIB = 2**20


@pytest.fixture(scope="module", params=["int8", "nf4", "bf16"])
def store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Store:
    if request.param == "nf4":
        pytest.importorskip("bitsandbytes")
    path = tmp_path_factory.mktemp("stores") / request.param
    layout = [] if request.param == "bf16" else ["--layout", "rowmajor"]
    assert main(["convert", "bundled", "--to", request.param, "--out", str(path), *layout, "-q"]) == 0
    return Store(path)


def logits(store: Store, of: Placement, dtype: torch.dtype, passes: int = 3) -> torch.Tensor:
    stream = open_device_stream(store, of, cuda(CUDA), dtype)
    try:
        engine = TorchEngine(admit(store.config), stream, DenseCache(LAYERS), 2048, CUDA, dtype)
        engine.sync([1, 50, 60])
        return torch.cat([read(engine, chain(*range(70, 72 + turn))) for turn in range(passes)])
    finally:
        stream.close()


@pytest.mark.parametrize("of", [placed(0, 0), placed(0, LAYERS, 0), placed(2, 2), placed(3, 1, 1, 3)], ids=str)
def test_streamed_logits_are_those_of_resident_layers_bit_for_bit(store: Store, of: Placement) -> None:
    wanted = logits(store, placed(LAYERS, 0, 0, 0), torch.bfloat16)
    for _ in range(5):
        assert logits(store, of, torch.bfloat16).equal(wanted)


def test_logits_are_near_those_of_the_cpu(store: Store) -> None:
    if store.quant == "bf16":
        pytest.skip("rounds too coarsely to say")
    source = open_streamer(store, Placement(LAYERS, 0, 0, ()))
    engine = TorchEngine(admit(store.config), source, DenseCache(LAYERS), 2048, torch.device("cpu"), torch.float32)
    engine.sync([1, 50, 60])
    torch.testing.assert_close(
        logits(store, placed(0, 2), torch.float32, 1).cpu(), read(engine, chain(70, 71)), rtol=1e-3, atol=1e-3)


@pytest.fixture
def peak(at_exit: None) -> Iterator[None]:
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    yield
    torch.cuda.empty_cache()


def ledger(store: Store, context: int) -> Making:
    return Making(store, ModelOptions(str(store.path), device="cuda", context=context), 2048, lambda: False)


@pytest.mark.parametrize("layers", [0, 3])
def test_what_is_allocated_stays_below_vram(store: Store, layers: int, peak: None, capsys: pytest.CaptureFixture[str]) -> None:
    making = ledger(store, 1024)
    vram = vram_for(making, layers, torch.bfloat16)
    before = torch.cuda.memory_allocated()
    engine = replace(making, options=replace(making.options, vram=vram)).engine()
    assert isinstance(engine, TorchEngine)
    engine.sync([5] * 900)
    read(engine, chain(*range(70, 70 + 100)))
    used = torch.cuda.max_memory_allocated() - before
    with capsys.disabled():
        print(f"\n{store.quant}, {layers} layers in GPU memory: {used / MIB:.0f} MiB allocated of {vram / MIB:.0f}")
    assert used <= vram - CONTEXT, "CUDA's own memory is not torch's"


def test_locked_memory_is_pinned_until_it_is_unlocked() -> None:
    buffer = Buffer(3 * MIB + 4096)
    unlock = page_lock(buffer.bytes)
    assert buffer.bytes.is_pinned()
    unlock()
    assert not buffer.bytes.is_pinned()


def test_copies_of_locked_memory_run_at_the_bus_speed(capsys: pytest.CaptureFixture[str]) -> None:
    """Figures for a person; asserts only that locking is no loss."""
    device, buffer = cuda(CUDA), Buffer(256 * MIB)
    to = torch.empty(buffer.size, dtype=torch.uint8, device=CUDA)

    def rate() -> float:
        device.copies.copy(to, buffer.bytes)
        device.copies.record().synchronize()
        begun = time.perf_counter()
        for _ in range(8):
            device.copies.copy(to, buffer.bytes)
        device.copies.record().synchronize()
        return 8 * buffer.size / (time.perf_counter() - begun) / 1e9

    pageable = rate()
    unlock = device.lock(buffer.bytes)
    locked = rate()
    unlock()
    with capsys.disabled():
        print(f"\ncopies to the device: {pageable:.1f} GB/s pageable, {locked:.1f} GB/s page-locked")
    assert locked > 0.9 * pageable


def test_keys_and_values_in_this_machines_memory_have_the_bits_of_the_devices_own(store: Store, at_exit: None) -> None:
    found = []
    for place in ("device", "host"):
        making = ledger(store, 1024)
        engine = replace(making, options=replace(making.options, kv_place=place)).engine()
        assert isinstance(engine, TorchEngine)
        assert isinstance(engine.cache, OffloadedDense) == (place == "host")
        engine.sync([*range(5, 505)])
        rows = [read(engine, chain(70, 71))]
        engine.sync([*range(5, 805)])
        found.append(torch.cat((*rows, read(engine, chain(70, 71, 72)))))
    assert found[0].equal(found[1])


@pytest.mark.parametrize("layers", [0, 3])
def test_the_command_line_writes_the_same_however_little_memory_it_may_use(
    store: Store, layers: int, at_exit: None, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["run", "Once upon a time", "-m", str(store.path), "--device", "cuda", "--ctx-size", "512", "-n", "20",
             "--seed", "7", "--json"]
    found = []
    for others in ([], ["--vram", str(vram_for(ledger(store, 512), layers, torch.bfloat16))]):
        assert main([*asked, *others]) == 0
        found.append(json.loads(capsys.readouterr().out)["token_ids"])
    assert found[0] == found[1]
