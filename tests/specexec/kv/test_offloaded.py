"""Caches whose rows are in a file: the contract of all caches, and a BlockCache's bits, through every rebase and truncation."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from offload.errors import OffloadError
from offload.kv_file import KvFile
from specexec.kernels import attention
from specexec.kv import backing
from specexec.kv.blocks import BlockCache
from specexec.kv.choice import Gather
from specexec.kv.copied import CopiedBlocks
from specexec.kv.offloaded import OffloadedBlocks
from specexec.kv.retrieval import BlockGathering
from specexec.tree import ROOT
from tests.specexec.kv import test_dense as contract
from tests.specexec.kv.test_blocks import Ledger
from tests.specexec.kv.test_dense import DIM, HEADS, KV_HEADS, LAYERS, over_a_view, play, steps, visible_rows
from tests.specexec.kv.test_retrieval import FEW, ask

pytestmark = pytest.mark.usefixtures("compiled")
ROWS = 1024
Make = Callable[[int | None], contract.Ledger]
once = settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(autouse=True)
def _early(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows leave as soon as there are a hundred or so."""
    monkeypatch.setattr(backing, "KEPT", 64)
    monkeypatch.setattr(backing, "STEP", 64)


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Make]:
    """Ledgers of caches over files."""
    files: list[KvFile] = []

    def make(window: int | None) -> contract.Ledger:
        files.append(KvFile(tmp_path, LAYERS, 2 * KV_HEADS, ROWS, 2 * attention.padded(DIM)))
        return Ledger(OffloadedBlocks(LAYERS, KV_HEADS, DIM, files[-1]), window)

    yield make
    for file in files:
        file.close()
    assert not list(tmp_path.iterdir()), "a file of keys and values has no name"


def offloaded(ledger: contract.Ledger) -> OffloadedBlocks:
    assert isinstance(ledger.cache, OffloadedBlocks)
    return ledger.cache


@once
@given(script=steps, window=st.sampled_from([None, 3, 70, 150]), length=st.sampled_from([3, 129, 300]))
def test_attention_is_the_naive_one_through_rebases_and_truncations(
    made: Make, script: list[tuple[str, list[int], int]], window: int | None, length: int
) -> None:
    ledger = made(window)
    ledger.commit(*range(length))
    ledger.add([1, 2, 3], [ROOT, 0, ROOT])
    ledger.rebase([0], [1])  # with rows of a tree that move as others leave
    play(ledger, script)
    for cut in (length - 20, length - 100, 65):
        ledger.truncate(max(0, cut))
        ledger.commit(*range(90))
        play(ledger, script[:2])
    ledger.rebase([])
    ledger.commit(*range(200))
    ledger.add([1], [ROOT])
    assert offloaded(ledger).backing.rows


def test_a_tree_s_rows_stay_where_those_above_them_leave(made: Make) -> None:
    ledger = made(None)
    ledger.add([*range(200), 7, 8], range(ROOT, 201))
    ledger.rebase(range(200), [200, 201])
    ledger.add([3, 4], [1, 0])
    assert offloaded(ledger).backing.rows
    ledger.rebase([0, 1], [2])
    ledger.add([5], [0])


@once
@given(script=steps)
def test_so_it_is_for_a_view_of_all_of_it(made: Make, script: list[tuple[str, list[int], int]]) -> None:
    base = made(None)
    base.commit(*range(200))
    base.add([1], [ROOT])
    play(over_a_view(base), script)


@pytest.mark.parametrize("what", [
    contract.test_survivors_are_renumbered_in_the_order_asked_for, contract.test_rows_that_were_never_admitted_are_forgotten,
    contract.test_truncating_forgets_the_tree_and_says_what_is_kept,
    contract.test_what_follows_a_truncation_keeps_its_window,
    partial(contract.test_a_rebase_that_does_not_hang_together_changes_nothing, path=[0, 2], survivors=[]),
])
def test_what_dense_caches_do_this_one_does(made: Make, what: Callable[..., None]) -> None:
    window = (3,) if "window" in getattr(what, "__name__", "") else ()
    what(made, *window)


def both(made: Make, length: int) -> tuple[contract.Ledger, contract.Ledger]:
    """The same rows in a file and in memory."""
    pair = made(None), Ledger(BlockCache(LAYERS, KV_HEADS, DIM))
    for ledger in pair:
        for start in range(0, length, 100):
            ledger.commit(*range(start, min(length, start + 100)))
        ledger.add([5], [ROOT])
        ledger.rebase([0])
    return pair


def outputs(cache: OffloadedBlocks | BlockCache | BlockGathering | CopiedBlocks, nodes: int, seed: int) -> torch.Tensor:
    """Of a pass whose rows are not admitted."""
    random, parents = torch.Generator().manual_seed(seed), [ROOT, 0, 0, 1, 2][:nodes]
    rows = visible_rows(cache.length, parents, nodes, None)
    q, (k, v) = torch.randn(LAYERS, HEADS, nodes, DIM, generator=random), torch.randn(2, KV_HEADS, nodes, DIM, generator=random)
    return torch.stack([cache.attend(layer, q[layer], k, v, rows) for layer in range(LAYERS)])


def test_its_bits_are_those_of_rows_in_memory(made: Make) -> None:
    away, here = both(made, 900)
    for seed, cut in enumerate([900, 890, 700, 128, 64]):
        kept = away.truncate(cut)
        here.truncate(kept)
        assert cut - 64 < kept <= cut
        assert outputs(offloaded(away), 5, seed).equal(outputs(here.cache, 5, seed))  # type: ignore[arg-type]


@pytest.mark.parametrize("of", [FEW, Gather(256, stride=64), Gather(128, first=16, recent=32, stride=16, scored=False)])
def test_a_view_of_chosen_rows_has_the_bits_of_the_one_that_reads_in_place(made: Make, of: Gather) -> None:
    away, here = both(made, 600)
    copied, in_place = CopiedBlocks(offloaded(away), of), BlockGathering(here.cache, of)  # type: ignore[arg-type]
    for turn in range(30):
        ask(away, turn)
        ask(here, turn)
        assert outputs(copied, 3, turn).equal(outputs(in_place, 3, turn))
        for ledger in (away, here):
            if turn == 20:
                ledger.truncate(ledger.truncate(ledger.cache.length - 100) // 64 * 64)
            ledger.commit(*range(9 if turn % 7 else 60))
    assert copied.choice.made == in_place.choice.made > 3


def test_a_choice_goes_through_the_layers_and_nothing_else_does(made: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    away, _ = both(made, 600)
    cache, asked = offloaded(away), []
    view = CopiedBlocks(cache, FEW)
    ask(away)
    outputs(view, 3, 0)
    assert view.choice.made == 1
    layer = cache.backing.layer
    monkeypatch.setattr(cache.backing, "layer", lambda index: asked.append(index) or layer(index))
    for turn in range(3):
        away.cache.truncate(away.cache.length - 1)  # which moves the base
        outputs(view, 3, turn)
    assert not asked


def test_a_file_that_cannot_be_written_leaves_the_cache_as_it_was(made: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = made(None)
    ledger.commit(*range(120))
    cache = offloaded(ledger)

    def full(*_: object) -> None:
        raise OffloadError("writing failed: no space left on device.", hint="--kv-place host")

    with monkeypatch.context() as patch:
        patch.setattr(cache.backing, "put", full)
        ledger.commit(*range(100))
        with pytest.raises(OffloadError):
            ledger.add([1], [ROOT])
    ledger.check()
    assert cache.backing.rows == 0
    ledger.add([1, 2], [ROOT, 0])
    assert cache.backing.rows


def test_it_takes_what_it_says(made: Make) -> None:
    ledger = made(None)
    ledger.commit(*range(500))
    ledger.add([1], [ROOT])
    cache = offloaded(ledger)
    own = sum(keys.nbytes + values.nbytes for keys, values in cache.buffers())
    assert cache.nbytes == own + cache.backing.nbytes
    assert cache.held < 128
