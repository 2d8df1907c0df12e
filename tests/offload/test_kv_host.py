"""Keys and values that a device borrows: whatever the order in which it works, each layer is whole while it is read."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from offload.errors import OffloadError
from offload.kv_host import KvHost
from specexec.kv import backing
from specexec.kv.choice import Gather
from specexec.kv.copied import CopiedDense
from specexec.kv.dense import DenseCache
from specexec.kv.offloaded_dense import OffloadedDense
from specexec.kv.retrieval import DenseGathering
from specexec.tree import ROOT
from tests.models import chain, engine, read, saved
from tests.offload.device import EagerLane, FakeDevice
from tests.specexec.kv import test_dense as contract
from tests.specexec.kv.test_dense import DIM, HEADS, KV_HEADS, LAYERS, Ledger, over_a_view, play, steps, visible_rows
from tests.specexec.kv.test_retrieval import FEW, ask

STRIPS, ROWS, ROW = 3, 12, 4
events = st.lists(st.one_of(st.integers(1, 3).map(lambda count: ("put", count)), st.integers(0, 8).map(lambda to: ("cut", to)),
                            st.integers(1, LAYERS).map(lambda until: ("pass", until))), max_size=10)


@contextmanager
def opened(device: FakeDevice, rows: int = ROWS, eager: bool = False, row: int = ROW, strips: int = STRIPS) -> Iterator[KvHost]:
    made = device.as_device()
    host = KvHost(replace(made, compute=EagerLane(device)) if eager else made, LAYERS, strips, rows, row)
    try:
        yield host
    finally:
        host.close()
        assert not device.locked


class Model:
    """What every layer should hold, and a device that computes with it."""

    def __init__(self, device: FakeDevice, host: KvHost) -> None:
        self.device, self.host, self.made = device, host, 0
        self.rows = torch.empty(LAYERS, STRIPS, 0, dtype=torch.uint8)

    def put(self, count: int) -> None:
        """Rows that the device makes late, in memory that it overwrites when they are said to be taken."""
        count = min(count, ROWS - self.host.rows)
        self.made += 1
        new = torch.full((LAYERS, STRIPS, count * ROW), 0, dtype=torch.uint8)
        wanted = torch.arange(new.numel()).add(7 * self.made).remainder(251).to(torch.uint8).view(new.shape)
        for layer in range(LAYERS):
            self.device.compute.copy(new[layer], wanted[layer])
        self.host.put(count, iter(new))
        for layer in range(LAYERS):
            self.device.compute.copy(new[layer], torch.full_like(new[layer], 252))
        self.rows = torch.cat((self.rows, wanted), 2)

    def cut(self, rows: int) -> None:
        self.host.cut(rows)
        self.rows = self.rows[:, :, : rows * ROW]

    def run(self, until: int) -> None:
        for index in (at % LAYERS for at in range(until)):
            with self.host.layer(index) as held:
                size = self.rows.shape[2]
                self.device.compute.copy(held[0, size:], torch.full_like(held[0, size:], 253))  # rows of its own
                for strip, wanted in enumerate(self.rows[index]):
                    self.device.compute.read({"rows": held[strip, :size]}, {"rows": wanted})


@settings(max_examples=150)
@given(seed=st.integers(0, 2**32), script=events)
def test_whatever_the_order_a_layer_is_whole_while_it_is_read(seed: int, script: list[tuple[str, int]]) -> None:
    device = FakeDevice(seed)
    with opened(device) as host:
        model = Model(device, host)
        for what, number in [("put", 2), *script, ("pass", LAYERS)]:
            {"put": model.put, "cut": model.cut, "pass": model.run}[what](number)
        device.drain()
    assert not device.wrong


def test_the_next_layer_s_copy_is_queued_before_this_one_is_used() -> None:
    device = FakeDevice(1)
    with opened(device) as host:
        Model(device, host).put(2)
        before = len(device.sources)
        with host.layer(0):
            assert len(device.sources) == before + 2 * STRIPS
        with host.layer(1):
            assert len(device.sources) == before + 3 * STRIPS


@pytest.mark.parametrize("fail", range(1, 7))
def test_a_copy_that_fails_is_said_in_time_and_the_next_pass_works(fail: int) -> None:
    device = FakeDevice(fail)
    with opened(device) as host:
        model = Model(device, host)
        model.put(2)
        device.drain()
        device.fail_at = device.copies_ended + fail
        with pytest.raises(OffloadError, match="illegal memory access"):
            model.run(LAYERS * 3)
        device.drain()
        device.wrong.clear()
        model.run(LAYERS)
        device.drain()
    assert not device.wrong


# --- a cache over it


@pytest.fixture
def early(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backing, "KEPT", 64)
    monkeypatch.setattr(backing, "STEP", 64)


Made = Iterator[Ledger]


@contextmanager
def offloaded(window: int | None = None) -> Made:
    with opened(FakeDevice(3), 1024, True, 4 * DIM, 2 * KV_HEADS) as host:
        yield Ledger(OffloadedDense(LAYERS, host, 256), window)


@settings(max_examples=15)
@given(script=steps, window=st.sampled_from([None, 3, 150]), length=st.sampled_from([3, 300]))
def test_attention_is_the_naive_one_through_rebases_and_truncations(
    script: list[tuple[str, list[int], int]], window: int | None, length: int
) -> None:
    with pytest.MonkeyPatch.context() as patch, offloaded(window) as ledger:
        patch.setattr(backing, "KEPT", 64)
        patch.setattr(backing, "STEP", 64)
        ledger.commit(*range(length))
        ledger.add([1, 2, 3], [ROOT, 0, ROOT])
        ledger.rebase([0], [1])
        play(ledger, script)
        for cut in (length - 20, length - 100, 65):
            ledger.truncate(max(0, cut))
            ledger.commit(*range(90))
            play(ledger, script[:2])
        play(over_a_view(ledger), [])


@pytest.mark.usefixtures("early")
@pytest.mark.parametrize("what", [
    contract.test_survivors_are_renumbered_in_the_order_asked_for, contract.test_rows_that_were_never_admitted_are_forgotten,
    contract.test_truncating_forgets_the_tree_and_says_what_is_kept,
    partial(contract.test_a_rebase_that_does_not_hang_together_changes_nothing, path=[0, 2], survivors=[]),
])
def test_what_dense_caches_do_this_one_does(what: object) -> None:
    with offloaded() as ledger:
        what(lambda window: ledger)  # type: ignore[operator]


@pytest.mark.usefixtures("early")
@pytest.mark.parametrize("of", [FEW, Gather(256, stride=64), Gather(128, first=16, recent=32, stride=16, scored=False)])
def test_a_view_of_chosen_rows_sees_what_one_in_memory_sees(of: Gather) -> None:
    with offloaded() as away:
        here = Ledger(DenseCache(LAYERS))
        for ledger in (away, here):
            for _ in range(6):
                ledger.commit(*range(100))
        copied, in_place = CopiedDense(away.cache, of), DenseGathering(here.cache, of)  # type: ignore[arg-type]
        for turn in range(20):
            ask(away, turn)
            ask(here, turn)
            torch.testing.assert_close(outputs(copied, turn), outputs(in_place, turn), atol=1e-6, rtol=1e-5)
            for ledger in (away, here):
                if turn == 12:
                    ledger.truncate((ledger.cache.length - 100) // 64 * 64)
                ledger.commit(*range(9 if turn % 7 else 60))
        assert copied.choice.made == in_place.choice.made > 2


def outputs(cache: CopiedDense | DenseGathering, seed: int) -> torch.Tensor:
    """Of a pass whose rows are not admitted."""
    random, parents = torch.Generator().manual_seed(seed), [ROOT, 0, 0]
    rows = visible_rows(cache.length, parents, 3, None)
    q, (k, v) = torch.randn(LAYERS, HEADS, 3, DIM, generator=random), torch.randn(2, KV_HEADS, 3, DIM, generator=random)
    return torch.stack([cache.attend(layer, q[layer], k, v, rows) for layer in range(LAYERS)])


@pytest.mark.usefixtures("early")
@pytest.mark.parametrize("family", ["llama", "qwen2-mixed"])
def test_logits_are_those_of_rows_on_the_device_bit_for_bit(family: str) -> None:
    folder, device = saved(family), FakeDevice(4)
    config = engine(folder).config
    dim, heads, layers = config.head_dim, config.num_key_value_heads, config.num_hidden_layers
    host = KvHost(replace(device.as_device(), compute=EagerLane(device)), layers, 2 * heads, 512, 4 * dim)
    found = []
    for cache in (OffloadedDense(layers, host, 512), DenseCache(layers, rows=512)):
        target, tokens = engine(folder, cache=cache, context=512), [*range(2, 79)] * 4
        logits = []
        for length, width in ((150, 3), (153, 1), (250, 4), (120, 2), (300, 2)):
            target.sync(tokens[:length])
            logits.append(read(target, chain(*range(5, 5 + width))))
        found.append(torch.cat(logits))
    assert host.rows
    assert found[0].equal(found[1])
    host.close()
