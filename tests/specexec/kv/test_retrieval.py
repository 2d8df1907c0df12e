"""Views of chosen rows: what they choose, that they attend to exactly that, and that they follow their base."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings

from specexec.kv.blocks import BlockCache
from specexec.kv.choice import Choice, Gather
from specexec.kv.dense import DenseCache
from specexec.kv.retrieval import BlockGathering, DenseGathering
from specexec.tree import ROOT
from tests.kernels import need
from tests.specexec.kv import test_dense as contract
from tests.specexec.kv.test_blocks import Ledger
from tests.specexec.kv.test_dense import DIM, HEADS, KV_HEADS, LAYERS, below, naive, play, steps, visible_rows, walk_up

FEW = Gather(rows=64, chunk=8, first=16, recent=16, stride=16)
Made = Callable[[int | None], contract.Ledger]


def blocks(window: int | None) -> contract.Ledger:
    need()
    return Ledger(BlockCache(LAYERS, KV_HEADS, DIM), window)


def dense(window: int | None) -> contract.Ledger:
    return Ledger(DenseCache(LAYERS), window)


def viewed(base: contract.Ledger, of: Gather) -> contract.Ledger:
    cache = base.cache
    view = BlockGathering(cache, of) if isinstance(cache, BlockCache) else DenseGathering(cache, of)
    above = Ledger(view, base.window, seed=1)
    above.committed, above.tokens = base.committed, list(base.tokens)
    return above


def choice(view: contract.Ledger) -> Choice:
    assert isinstance(view.cache, BlockGathering | DenseGathering)
    return view.cache.choice


def ask(base: contract.Ledger, seed: int = 5) -> torch.Tensor:
    """A pass whose node 0 asks; fp32[layers, heads, dim]."""
    queries = torch.randn(LAYERS, HEADS, DIM, generator=torch.Generator().manual_seed(seed))
    rows = visible_rows(base.cache.length, [ROOT], 1, base.window)
    k, v = torch.zeros(2, KV_HEADS, 1, DIM)
    for layer in range(LAYERS):
        base.cache.attend(layer, queries[layer][:, None], k, v, contract.Rows(*vars_of(rows), root=0))
    return queries


def vars_of(rows: contract.Rows) -> tuple[object, ...]:
    return rows.positions, rows.visible, rows.first_visible, rows.parents


makers = pytest.mark.parametrize("make", [dense, blocks])


@makers
@settings(max_examples=20)
@given(script=steps)
def test_a_view_of_all_rows_attends_to_all_of_them(make: Made, script: list[tuple[str, list[int], int]]) -> None:
    for window in (None, 3):
        base = make(window)
        base.commit(*range(21))
        play(viewed(base, Gather()), script)
        play(viewed(make(window), Gather()), script)


@makers
@pytest.mark.parametrize("what", [
    contract.test_a_rebase_that_does_not_hang_together_changes_nothing,
    contract.test_survivors_are_renumbered_in_the_order_asked_for, contract.test_rows_that_were_never_admitted_are_forgotten,
    contract.test_truncating_forgets_the_tree_and_says_what_is_kept,
])
def test_what_dense_caches_do_a_view_does(make: Made, what: Callable[..., None]) -> None:
    def above(window: int | None) -> contract.Ledger:
        base = make(window)
        base.commit(*range(30))
        return viewed(base, Gather())

    arguments = ([0, 2], []) if "hang_together" in what.__name__ else ()
    what(above, *arguments)


def best(base: contract.Ledger, queries: torch.Tensor, layer: int, head: int, of: Gather) -> list[int]:
    """The rows that the view should see, chosen naively."""
    length, group = len(base.tokens), HEADS // KV_HEADS
    chunks = length // of.chunk
    middle = range(of.first // of.chunk, chunks - of.recent // of.chunk)
    query = queries[layer, head * group : (head + 1) * group].sum(0)
    keys = base.committed[layer, 0, head]
    scores = {c: float(keys[c * of.chunk : (c + 1) * of.chunk].mean(0) @ query) for c in middle}
    taken = sorted(scores, key=lambda c: -scores[c])[: (of.rows - of.first - of.recent) // of.chunk]
    found = {*range(of.first), *range(middle.stop * of.chunk, length)}
    return sorted(found | {row for c in taken for row in range(c * of.chunk, (c + 1) * of.chunk)})


@makers
@pytest.mark.parametrize("chunk", [8, 16])
@pytest.mark.parametrize("length", [403, 400, 161])
def test_it_sees_the_chunks_that_fit_the_last_query(make: Made, chunk: int, length: int) -> None:
    of = Gather(rows=64, chunk=chunk, first=16, recent=16, stride=16)
    base = make(None)
    base.commit(*range(length))
    view = viewed(base, of)
    queries = ask(base)
    q, k, v = (torch.randn(heads, 3, DIM) for heads in (HEADS, KV_HEADS, KV_HEADS))
    k, v = k.bfloat16().float(), v.bfloat16().float()
    rows = visible_rows(length, [ROOT, 0, 0], 3, None)
    for layer in range(LAYERS):
        out = view.cache.attend(layer, q, k, v, rows)
        for head in range(KV_HEADS):
            group = slice(head * HEADS // KV_HEADS, (head + 1) * HEADS // KV_HEADS)
            seen = best(base, queries, layer, head, of)
            assert len(seen) <= of.rows + of.chunk
            whole = torch.cat((base.committed[layer, :, head, seen], torch.stack((k, v))[:, head]), 1)[:, None]
            mask = torch.cat((torch.ones(3, len(seen), dtype=torch.bool), rows.visible), 1)
            torch.testing.assert_close(out[group].double(), naive(q[group], *whole, mask), atol=1e-5, rtol=1e-5)


@makers
def test_until_somebody_has_asked_it_is_a_window(make: Made) -> None:
    base = make(None)
    base.commit(*range(400))
    eights = choice(viewed(base, FEW)).eights(400)
    assert eights[0, 0].flatten().tolist() == [0, 1, *range(44, 50)]
    assert bool((eights == eights[0, 0]).all())


@makers
def test_what_the_base_commits_is_seen_at_once_and_chosen_among_after_a_stride(make: Made) -> None:
    base = make(None)
    base.commit(*range(400))
    view = viewed(base, FEW)
    ask(base)
    assert view.cache.length == 400
    for _ in range(FEW.stride):
        base.commit(1)
        assert list(view.cache.tokens) == base.tokens
    assert choice(view).made == 1
    shown = choice(view).eights(len(base.tokens))[0, 0].flatten().tolist()
    assert shown[:2] == [0, 1]
    assert [eight for eight in shown if eight >= 48] == [48, 49, 50, 51]
    base.commit(*range(30))
    assert view.cache.length == 446
    assert choice(view).made == 2


@makers
def test_doubt_makes_it_choose_anew(make: Made) -> None:
    base = make(None)
    base.commit(*range(400))
    view = viewed(base, FEW)
    ask(base)
    before = choice(view).eights(400)
    ask(base, seed=6)
    choice(view).doubt()
    base.commit(1)
    assert view.cache.length == 401
    assert choice(view).made == 2
    assert not torch.equal(choice(view).eights(400)[..., :1, :], before[..., :1, :])


@makers
def test_rows_that_the_base_replaced_are_not_remembered(make: Made) -> None:
    base, fresh = make(None), make(None)
    base.commit(*range(400))
    view = viewed(base, FEW)
    ask(base)
    assert view.cache.length == 400
    base.truncate(100)
    base.commit(*range(300))
    queries = ask(base)
    seen = choice(view).eights(view.cache.length)
    for layer in range(LAYERS):
        for head in range(KV_HEADS):
            wanted = best(base, queries, layer, head, FEW)
            assert sorted({row // 8 for row in wanted}) == [e for e in seen[layer, head].flatten().tolist() if e >= 0]
    assert fresh.cache.length == 0


@makers
@settings(max_examples=15)
@given(script=steps)
def test_it_follows_its_base_through_anything(make: Made, script: list[tuple[str, list[int], int]]) -> None:
    """The base is played with; after each step a view of all rows is the whole, and one of few rows does not fail."""
    base = make(None)
    base.commit(*range(120))
    whole, few = viewed(base, Gather()), viewed(base, FEW)
    for action, numbers, pick in script:
        old = len(base.cache.branches)
        if action == "add":
            base.add(range(old, old + len(numbers)), [number % (old + i + 1) - 1 for i, number in enumerate(numbers)])
        elif action == "rebase":
            path = walk_up(base.cache.branches, pick % (old + 1) - 1)
            base.rebase(path, below(base.cache.branches, path, numbers))
        else:
            base.truncate(pick % (len(base.tokens) + 2))
        for view in (whole, few):
            view.committed, view.tokens, view.tree = base.committed, list(base.tokens), base.tree[..., :0, :]
            view.check()
        whole.add([1, 2], [ROOT, 0])
        q, k, v = (torch.randn(heads, 1, DIM) for heads in (HEADS, KV_HEADS, KV_HEADS))
        assert few.cache.attend(0, q, k, v, visible_rows(few.cache.length, [ROOT], 1, None)).isfinite().all()
        whole.cache.truncate(len(base.tokens))


@makers
def test_it_counts_what_it_takes(make: Made) -> None:
    base = make(None)
    base.commit(*range(400))
    before = base.cache.nbytes
    view = viewed(base, Gather())
    view.commit(1, 2)
    assert view.cache.nbytes >= choice(view).nbytes + LAYERS * KV_HEADS * 2 * 2 * DIM
    assert base.cache.nbytes == before


@makers
def test_views_go_by_name(make: Made) -> None:
    assert make(None).cache.view("retrieval").view is not None
    windowed = make(None).cache.view("window")
    assert isinstance(windowed, BlockGathering | DenseGathering)
    assert not windowed.choice.of.scored


@pytest.mark.parametrize("wrong", [{"chunk": 4}, {"chunk": 16, "first": 8}, {"rows": 64}])
def test_sizes_that_do_not_fit_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="rows"):
        Gather(**wrong)


