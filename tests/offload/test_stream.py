"""Layers that pass through a ring of buffers are those that stay in memory, bit for bit."""

import errno
import os
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from offload.errors import DamagedFiles, OffloadError
from offload.plan import Placement
from offload.store import Store
from offload.stream import Streamer, spread
from offload.streamed import open_streamer


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    from cli.main import main

    path = tmp_path_factory.mktemp("stores") / "bundled-nf4"
    assert main(["convert", "bundled", "--out", str(path), "--layout", "tile16", "-q"]) == 0
    return Store(path)


def one_pass(streamer: Streamer) -> None:
    for index in range(6):
        with streamer.layer(index):
            pass


def placed(pinned: int, slots: int = 2) -> Placement:
    return Placement(pinned, slots, 0, ())


@pytest.fixture
def streamers(store: Store) -> Iterator[list[Streamer]]:
    made = [open_streamer(store, placed(pinned)) for pinned in (6, 0, 2)] + [open_streamer(store, placed(1, slots=1))]
    yield made
    for streamer in made:
        streamer.close()


def test_every_pass_hands_over_the_same_bytes(streamers: list[Streamer]) -> None:
    resident, *others = streamers
    for streamer in others:
        for index in [*range(6), *range(6), 0, 1, *range(6)]:  # the third pass ends early
            with streamer.layer(index) as got, resident.layer(index) as wanted:
                assert got.keys() == wanted.keys()
                assert all(got[name].equal(wanted[name]) for name in wanted)


def test_a_slot_is_the_same_mapping_whenever_it_comes_again(streamers: list[Streamer]) -> None:
    streamer, seen = streamers[1], set[int]()
    for index in [*range(6)] * 3:
        with streamer.layer(index) as tensors:
            seen.add(id(tensors))
    assert len(seen) == 2


def test_logits_do_not_depend_on_what_streams(store: Store, streamers: list[Streamer]) -> None:
    from specexec.engines.families import admit
    from specexec.engines.kernel_engine import KernelEngine
    from specexec.kernels import table
    from tests.models import chain, read

    if table.table() is None:
        pytest.skip("there are no compiled kernels")
    found = []
    for streamer in streamers:
        engine = KernelEngine(admit(store.config), streamer, 2048, 16)
        engine.sync([1, 50, 60])
        found.append(torch.cat([read(engine, chain(70, 80)), read(engine, chain(70, 80, 90))]))
    assert all(logits.equal(found[0]) for logits in found)


def test_a_layer_that_was_cut_names_the_file(store: Store, tmp_path: Path) -> None:
    for file in store.path.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    streamer = open_streamer(Store(tmp_path), placed(0))
    layer = tmp_path / "layer-004.safetensors"
    layer.write_bytes(layer.read_bytes()[:-4096])
    with pytest.raises(DamagedFiles, match=r"layer-004.*bytes"):
        one_pass(streamer)
    streamer.close()


def test_an_error_of_the_disk_is_told_and_the_next_pass_works(
    streamers: list[Streamer], monkeypatch: pytest.MonkeyPatch
) -> None:
    streamer, read = streamers[1], os.preadv
    broken = streamer._files[3]._descriptor

    def failing(descriptor: int, parts: list[memoryview], offset: int) -> int:
        if descriptor == broken:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return read(descriptor, parts, offset)

    monkeypatch.setattr(os, "preadv", failing)
    with pytest.raises(OffloadError, match=r"layer-003.*byte 0: Input/output error"):
        one_pass(streamer)
    monkeypatch.setattr(os, "preadv", read)
    one_pass(streamer)


@pytest.mark.parametrize(("count", "of"), [(0, 80), (1, 80), (40, 80), (79, 80), (80, 80), (3, 7)])
def test_the_pinned_ones_are_as_many_as_asked_and_spread(count: int, of: int) -> None:
    found = sorted(spread(count, of))
    assert len(found) == count
    assert all(0 <= index < of for index in found)
    gaps = [b - a for a, b in pairwise(found)]
    assert not gaps or max(gaps) - min(gaps) <= 1
