"""Layers through a device's ring of buffers: whatever the order in which the device works, each is computed with as it is."""

import re
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from offload.device_stream import DeviceStream
from offload.errors import DamagedFiles, OffloadError
from offload.piece import Piece
from offload.plan import Placement
from offload.store import Store
from offload.streamed import open_device_stream, open_streamer, split
from specexec.engines.families import admit
from specexec.engines.torch_engine import TorchEngine
from specexec.kv.dense import DenseCache
from specexec.roles import WeightSource
from tests.models import chain, read
from tests.offload.device import CPU, EagerLane, FakeDevice

LAYERS = 6


class Layers(list[Mapping[str, torch.Tensor]]):
    """What a device is to hold: vectors in bf16."""

    def __repr__(self) -> str:
        return "layers"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    from cli.main import main

    path = tmp_path_factory.mktemp("stores") / "bundled-nf4"
    assert main(["convert", "bundled", "--out", str(path), "--layout", "rowmajor", "-q"]) == 0
    return Store(path)


@pytest.fixture(scope="module")
def layers(store: Store) -> Layers:
    found = [Piece.of(store, name).load() for name in store.layers]
    return Layers({name: x.bfloat16() if x.dtype == torch.float32 else x for name, x in layer.items()} for layer in found)


def placed(on_device: int, pinned: int, slots: int = 2, ring: int = 2) -> Placement:
    return Placement(pinned, slots, 0, (), on_device, ring)


placements = st.integers(0, 3).flatmap(lambda on_device: st.builds(
    placed, st.just(on_device), st.integers(0, LAYERS - on_device), st.integers(1, 3), st.integers(2, 3)))
passes = st.lists(st.integers(1, LAYERS), min_size=1, max_size=4)  # layers before each ends; Ctrl-C ends it early


@contextmanager
def opened(store: Store, of: Placement, device: FakeDevice) -> Iterator[DeviceStream]:
    stream = open_device_stream(store, of, device.as_device(), torch.bfloat16)
    try:
        yield stream
    finally:
        stream.close()


def run(stream: DeviceStream, device: FakeDevice, layers: Layers, until: int = LAYERS) -> None:
    for index in range(until):
        with stream.layer(index) as tensors:
            device.compute.read(tensors, layers[index])


@settings(max_examples=60)
@given(seed=st.integers(0, 2**32), of=placements, lengths=passes)
def test_whatever_the_order_every_layer_is_whole_while_it_is_computed_with(
    store: Store, layers: Layers, seed: int, of: Placement, lengths: list[int]
) -> None:
    device = FakeDevice(seed)
    with opened(store, of, device) as stream:
        for until in [*lengths, LAYERS]:
            run(stream, device, layers, until)
        device.drain()
    assert not device.wrong


def test_copies_run_ahead_across_the_border_of_a_pass(store: Store, layers: Layers) -> None:
    device = FakeDevice(0)
    with opened(store, placed(0, LAYERS, 0, ring=3), device) as stream:
        run(stream, device, layers)
        deadline = time.monotonic() + 30
        while len(files(stream, device)) < LAYERS + 2 and time.monotonic() < deadline:
            device.drain()
        assert len(files(stream, device)) >= LAYERS + 2


@pytest.mark.parametrize("on_device", [0, 2])
def test_bytes_are_counted_as_layers_are_handed_over(store: Store, layers: Layers, on_device: int) -> None:
    device = FakeDevice(7)
    with opened(store, placed(on_device, 1), device) as stream:
        layer = stream.pieces[0].size
        for passes in (1, 2):
            run(stream, device, layers)
            assert stream.copied_bytes == passes * (LAYERS - on_device) * layer
            assert stream.streamed_bytes == passes * (LAYERS - on_device - 1) * layer
        assert sum(map(stream.disk_bytes, range(LAYERS))) == (LAYERS - on_device - 1) * layer


def files(stream: DeviceStream, device: FakeDevice) -> list[tuple[int, int]]:
    """Places in memory that whole layers were copied from, so far."""
    return [(at, size) for at, size in device.sources if size == stream.pieces[0].size]


def test_two_slots_are_two_mappings_of_the_same_places(store: Store) -> None:
    device, seen = FakeDevice(1), set[int]()
    with opened(store, placed(0, 2), device) as stream:
        for index in [*range(LAYERS)] * 3:
            with stream.layer(index) as tensors:
                seen.add(id(tensors))
    assert len(seen) == 2


def test_layers_that_stay_on_the_device_are_never_copied_again(store: Store, layers: Layers) -> None:
    device, of = FakeDevice(2), placed(LAYERS, 0, 0, 0)
    with opened(store, of, device) as stream:
        before = len(device.sources)
        run(stream, device, layers)
        run(stream, device, layers)
        device.drain()
        assert (len(device.sources), stream.copied_bytes, stream.streamed_bytes) == (before, 0, 0)
    assert not device.wrong


def test_copies_read_page_locked_memory_and_close_unlocks_it(store: Store, layers: Layers) -> None:
    device, before = FakeDevice(3), set(threading.enumerate())
    with opened(store, placed(0, 2), device) as stream:
        run(stream, device, layers)
        assert len(files(stream, device)) >= LAYERS
        assert all(device.locks(at, size) for at, size in files(stream, device))
    assert not device.locked
    assert set(threading.enumerate()) <= before


def test_memory_that_cannot_be_locked_leaves_none_locked(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    device, lock = FakeDevice(4), FakeDevice.lock

    def failing(memory: torch.Tensor) -> object:
        if device.locked:
            raise OffloadError("page-locking failed with CUDA's error 2.", hint="--device cpu")
        return lock(device, memory)

    monkeypatch.setattr(device, "lock", failing)
    with pytest.raises(OffloadError, match="page-locking"), opened(store, placed(0, 2), device):
        pass
    assert not device.locked


@settings(max_examples=40)
@given(seed=st.integers(0, 2**32), of=placements, fail=st.integers(1, 100))
def test_a_copy_that_fails_names_its_layer_and_the_next_pass_works(
    store: Store, layers: Layers, seed: int, of: Placement, fail: int
) -> None:
    device = FakeDevice(seed)
    with opened(store, of, device) as stream:
        before = device.copies_ended
        device.fail_at = before + fail
        failed = [name for name in (pass_or_error(stream, device, layers) for _ in range(5)) if name]
        assert len(failed) == (fail <= device.copies_ended - before)
        assert not any(int(name) in split(of, LAYERS)[0] for name in failed)


def pass_or_error(stream: DeviceStream, device: FakeDevice, layers: Layers) -> str | None:
    """The layer whose copy failed; None: the pass raised nothing, and so computed with what it should have."""
    device.wrong.clear()
    try:
        run(stream, device, layers)
    except OffloadError as error:
        found = re.fullmatch(r"copying layer (\d) to the device failed: an illegal memory access\.", str(error))
        assert found is not None
        return found[1]
    finally:
        device.drain()
    assert not device.wrong
    return None


def test_a_damaged_layer_is_named_as_on_the_cpu(store: Store, tmp_path: Path) -> None:
    for file in store.path.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    layer = tmp_path / "layer-004.safetensors"
    content = bytearray(layer.read_bytes())
    content[200_000] ^= 1
    device = FakeDevice(5)
    with opened(Store(tmp_path), placed(0, 0), device) as stream:
        layer.write_bytes(content)
        with pytest.raises(DamagedFiles, match="layer-004"):
            run(stream, device, Layers([{}] * LAYERS))


@pytest.mark.parametrize(("kind", "dtype"), [("nf4", torch.float32), ("bf16", torch.bfloat16)])
def test_logits_are_those_of_the_cpu_streamed(store: Store, kind: str, dtype: torch.dtype, tmp_path: Path) -> None:
    from cli.main import main

    if kind != store.quant:
        assert main(["convert", "bundled", "--to", kind, "--out", str(tmp_path / kind), "-q"]) == 0
        store = Store(tmp_path / kind)
    fake = FakeDevice(6)
    device = replace(fake.as_device(), compute=EagerLane(fake))
    found = []
    for of in (placed(LAYERS, 0, 0, 0), placed(0, 0), placed(2, 2)):
        stream = open_device_stream(store, of, device, dtype)
        found.append(logits(store, stream, dtype))
        stream.close()
        stream.close()
    assert all(one.equal(found[0]) for one in found)
    if kind != "bf16":  # where the CPU's vectors stay fp32
        on_cpu = open_streamer(store, Placement(LAYERS, 0, 0, ()))
        assert logits(store, on_cpu, dtype).equal(found[0])


def logits(store: Store, source: WeightSource, dtype: torch.dtype) -> torch.Tensor:
    engine = TorchEngine(admit(store.config), source, DenseCache(LAYERS), 2048, CPU, dtype)
    engine.sync([1, 50, 60])
    return torch.cat([read(engine, chain(70, 80)), read(engine, chain(70, 80, 90))])
