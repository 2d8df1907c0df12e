"""The contract of KV caches held against BlockCache: as test_dense does it, to what bf16 keys and values allow.

Where every key and value is a bf16 number already nothing is lost, and the tolerance is fp32's; plain numbers lose up to
2^-8 of each value, and of each score as much as its products' magnitudes.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from specexec.errors import WrongUsage
from specexec.kernels import attention
from specexec.kv import blocks
from specexec.kv.blocks import BlockCache
from specexec.kv.whole import BlockView
from specexec.tree import ROOT
from tests.kernels import normal, threads
from tests.specexec.kv import test_dense as contract
from tests.specexec.kv.test_dense import DIM, HEADS, KV_HEADS, LAYERS, naive, over_a_view, play, steps, visible_rows

pytestmark = pytest.mark.usefixtures("compiled")


class Ledger(contract.Ledger):
    """test_dense's, whose random numbers are all of bf16."""

    def normal(self, *shape: int) -> torch.Tensor:
        return super().normal(*shape).bfloat16().float()


def alone(window: int | None) -> contract.Ledger:
    return Ledger(BlockCache(LAYERS, KV_HEADS, DIM), window)


def viewing(window: int | None) -> contract.Ledger:
    base = alone(window)
    base.commit(1, 2, 3, 4, 5)
    return over_a_view(base)


def viewing_nothing(window: int | None) -> contract.Ledger:
    return over_a_view(alone(window))


Maker = Callable[[int | None], contract.Ledger]
makers = pytest.mark.parametrize("make", [alone, viewing, viewing_nothing])
windows = st.sampled_from([None, 1, 3, 6])


@makers
@settings(max_examples=25)
@given(script=steps, window=windows)
def test_attention_is_the_naive_one_through_rebases_and_truncations(
    make: Maker, script: list[tuple[str, list[int], int]], window: int | None
) -> None:
    play(make(window), script)


@makers
@settings(max_examples=5)
@given(script=steps, window=st.sampled_from([None, 70]))
def test_so_it_is_where_the_buffers_grow(make: Maker, script: list[tuple[str, list[int], int]], window: int | None) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "FIRST_ROWS", 64)
        ledger = make(window)
        ledger.commit(*range(60))
        play(ledger, script)
        ledger.truncate(len(ledger.tokens) // 2)
        ledger.commit(*range(70))
        play(ledger, script)


def test_other_numbers_are_rounded_to_bf16() -> None:
    ledger = contract.Ledger(BlockCache(LAYERS, KV_HEADS, DIM))
    q, k, v = (normal(heads, 9, DIM, seed=heads) for heads in (HEADS, KV_HEADS, KV_HEADS))
    rows = visible_rows(0, range(ROOT, 8), 9, None)
    found = ledger.cache.attend(0, q, k, v, rows)
    assert found.dtype == torch.float32
    exact = naive(q, k.bfloat16(), v.bfloat16(), rows.visible)
    torch.testing.assert_close(found.double(), exact, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found.double(), naive(q, k, v, rows.visible), atol=0.02, rtol=0)  # 0.009 was measured
    assert not torch.allclose(found.double(), naive(q, k, v, rows.visible), atol=1e-4)


@makers
@pytest.mark.parametrize(("path", "survivors"), [([1], []), ([0, 2], []), ([0], [2]), ([0, 1], [2]), ([], [1, 0])])
def test_a_rebase_that_does_not_hang_together_changes_nothing(make: Maker, path: list[int], survivors: list[int]) -> None:
    contract.test_a_rebase_that_does_not_hang_together_changes_nothing(make, path, survivors)


@makers
@pytest.mark.parametrize("what", [
    contract.test_survivors_are_renumbered_in_the_order_asked_for, contract.test_rows_that_were_never_admitted_are_forgotten,
    contract.test_truncating_forgets_the_tree_and_says_what_is_kept,
])
def test_what_dense_caches_do_this_one_does(make: Maker, what: Callable[..., None]) -> None:
    what(make)


@makers
@pytest.mark.parametrize("window", [None, 3])
def test_what_follows_a_truncation_keeps_its_window(make: Maker, window: int | None) -> None:
    contract.test_what_follows_a_truncation_keeps_its_window(make, window)


@pytest.mark.parametrize("what", [
    contract.test_a_cache_may_be_rebased_outside_inference_mode, contract.test_a_view_leaves_its_base_alone,
    contract.test_a_tree_of_the_base_is_not_seen_by_the_view, contract.test_a_view_has_no_view_of_its_own,
    partial(contract.test_a_change_of_the_base_drops_the_views_tail, "rebase"),
    partial(contract.test_a_change_of_the_base_drops_the_views_tail, "truncate"),
])
def test_so_do_its_views(what: Callable[[], None], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contract, "alone", alone)
    what()


def test_nbytes_is_what_the_buffers_take() -> None:
    ledger = alone(None)
    assert ledger.cache.nbytes == 0
    ledger.commit(*range(10))
    padded = attention.padded(DIM)
    assert ledger.cache.nbytes == LAYERS * 2 * KV_HEADS * blocks.FIRST_ROWS * padded * 2
    ledger.commit(*range(blocks.FIRST_ROWS))
    assert ledger.cache.nbytes == LAYERS * 2 * KV_HEADS * 2 * blocks.FIRST_ROWS * padded * 2


# --- views


def test_a_view_counts_its_own_tail_alone() -> None:
    view = viewing(None)
    assert view.cache.nbytes == 0
    view.add([5], [ROOT])
    assert view.cache.nbytes == LAYERS * 2 * KV_HEADS * blocks.FIRST_ROWS * attention.padded(DIM) * 2


def test_a_view_of_all_rows_reads_more_than_a_block_of_them_in_place() -> None:
    base = alone(None)
    base.commit(*range(300))
    view = over_a_view(base)
    view.add([5, 6, 7], [ROOT, ROOT, 0])
    assert isinstance(view.cache, BlockView)
    assert view.cache.nbytes < base.cache.nbytes


def test_rows_a_window_hides_from_a_view_s_tail_weigh_nothing() -> None:
    view = viewing(3)
    view.add(range(8), range(ROOT, 7))  # the last of them see the tail alone
    view.add([9], [7])


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize(("length", "first"), [(5, 5), (100, 130), (5000, 5000), (5000, 9000)])
def test_a_query_that_sees_no_committed_row_weighs_nothing(length: int, first: int, count: int) -> None:
    cache = BlockCache(1, 1, 64)
    k, v = normal(2, 1, length, 64)
    rows = visible_rows(0, range(ROOT, length - 1), 1, None)
    cache.attend(0, normal(8, 1, 64), k, v, rows)
    with threads(count):
        part = cache.attend_committed(0, normal(8, 1, 64), replace(rows, first_visible=torch.tensor([first])), length)
    assert not part.out.any()
    assert bool((part.log_sum_exp == -torch.inf).all())


def test_an_unknown_view_is_refused_with_a_hint() -> None:
    with pytest.raises(WrongUsage, match="mirror") as caught:
        BlockCache(1, KV_HEADS, DIM).view("mirror")
    assert caught.value.hint
