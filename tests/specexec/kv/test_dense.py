"""The contract of KV caches, held against attention written down naively in float64."""

from collections.abc import Callable, Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from specexec.errors import WrongUsage
from specexec.kv import attention, dense
from specexec.kv.cache import Branches, KVCache, Rows
from specexec.kv.dense import DenseCache
from specexec.prefix import common
from specexec.tree import ROOT, ancestor_mask, depths

LAYERS, HEADS, KV_HEADS, DIM = 2, 6, 2, 8


def visible_rows(length: int, parents: Sequence[int], last: int, window: int | None) -> Rows:
    """The rows of the last `last` of the tree's rows, over `length` committed ones."""
    positions = torch.tensor([length + depth for depth in depths(parents)], dtype=torch.int64)
    new = positions[len(parents) - last :]
    first = torch.zeros_like(new) if window is None else (new + 1 - window).clamp(min=0)
    mask = torch.from_numpy(ancestor_mask(parents, last))
    return Rows(new, mask & (positions >= first[:, None]), first, parents)


def naive(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
    """float64 attention of q[heads, n, dim] over repeated k, v[kv_heads, keys, dim]; seen: bool[n, keys]."""
    k, v = (part.double().repeat_interleave(q.shape[0] // k.shape[0], 0) for part in (k, v))
    scores = q.double() @ k.transpose(1, 2)
    return scores.masked_fill(~seen, -torch.inf).softmax(-1) @ v


class Ledger:
    """A cache and, beside it, every row it should hold. Keys and values are random, layer by layer."""

    def __init__(self, cache: KVCache, window: int | None = None, seed: int = 0) -> None:
        self.cache, self.window = cache, window
        self.random = torch.Generator().manual_seed(seed)
        self.committed = torch.empty(LAYERS, 2, KV_HEADS, 0, DIM)
        self.tree = torch.empty(LAYERS, 2, KV_HEADS, 0, DIM)
        self.tokens: list[int] = []
        self.asked = list(range(40))  # always the same object

    def normal(self, *shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=self.random)

    def add(self, tokens: Sequence[int], parents: Sequence[int], admitted: bool = True) -> None:
        """Attends in every layer with new rows of the tree, checks what comes out, and admits them."""
        every = [*self.cache.branches.parents, *parents]
        rows = visible_rows(self.cache.length, every, len(tokens), self.window)
        new = self.normal(LAYERS, 2, KV_HEADS, len(tokens), DIM)
        tree = torch.cat((self.tree, new), 3)
        for layer in range(LAYERS):
            q = self.normal(HEADS, len(tokens), DIM)
            out = self.cache.attend(layer, q, new[layer, 0], new[layer, 1], rows)
            wanted = self.wanted(q, torch.cat((self.committed[layer], tree[layer]), 2), rows)
            torch.testing.assert_close(out.double(), wanted, atol=1e-5, rtol=1e-5)
        if admitted:
            self.cache.admit(tokens, parents)
            self.tree = tree

    def wanted(self, q: torch.Tensor, kv: torch.Tensor, rows: Rows) -> torch.Tensor:
        """What attention over kv[2, kv_heads, rows, dim] comes to."""
        return naive(q, *kv, self.seen(rows))

    def seen(self, rows: Rows) -> torch.Tensor:
        """bool[n, committed + tree]."""
        return torch.cat((torch.arange(len(self.tokens)) >= rows.first_visible[:, None], rows.visible), 1)

    def rebase(self, path: Sequence[int], survivors: Sequence[int] = ()) -> dict[int, int]:
        self.tokens += [self.cache.branches.tokens[row] for row in path]
        self.committed = torch.cat((self.committed, self.tree[..., list(path), :]), 3)
        self.tree = self.tree[..., list(survivors), :]
        return self.cache.rebase(path, survivors)

    def truncate(self, length: int) -> int:
        kept = self.cache.truncate(length)
        self.tokens = self.tokens[:kept]
        self.committed, self.tree = self.committed[..., :kept, :], self.tree[..., :0, :]
        return kept

    def commit(self, *tokens: int) -> None:
        """A prompt: evaluated as a chain, and committed."""
        self.add(tokens, range(ROOT, len(tokens) - 1))
        self.rebase(range(len(tokens)))

    def check(self) -> None:
        assert list(self.cache.tokens) == self.tokens
        assert self.cache.length == len(self.tokens)
        assert len(self.cache.branches) == self.tree.shape[3]
        assert self.cache.alike(self.asked) == common(self.tokens, self.asked)


def over_a_view(ledger: Ledger) -> Ledger:
    """The ledger of a view over `ledger`'s cache."""
    above = type(ledger)(ledger.cache.view("full"), ledger.window, seed=1)
    above.committed, above.tokens = ledger.committed, list(ledger.tokens)
    above.asked = [*ledger.tokens, *range(40)]
    return above


def alone(window: int | None) -> Ledger:
    return Ledger(DenseCache(LAYERS), window)


def viewing(window: int | None) -> Ledger:
    base = alone(window)
    base.commit(1, 2, 3, 4, 5)
    return over_a_view(base)


def viewing_nothing(window: int | None) -> Ledger:
    return over_a_view(alone(window))


makers = pytest.mark.parametrize("make", [alone, viewing, viewing_nothing])
new_rows = st.lists(st.integers(0, 20), min_size=1, max_size=6)
steps = st.lists(st.tuples(st.sampled_from(["add", "add", "rebase", "truncate"]), new_rows, st.integers(0, 40)), max_size=7)


def play(ledger: Ledger, script: list[tuple[str, list[int], int]]) -> None:
    """Each step's numbers are taken modulo what there is."""
    for action, numbers, pick in script:
        old = len(ledger.cache.branches)
        if action == "add":
            parents = [number % (old + i + 1) - 1 for i, number in enumerate(numbers)]
            ledger.add(range(old, old + len(numbers)), parents)
        elif action == "rebase":
            path = walk_up(ledger.cache.branches, pick % (old + 1) - 1)
            ledger.rebase(path, below(ledger.cache.branches, path, numbers))
        else:
            ledger.truncate(pick % (len(ledger.tokens) + 2))
        ledger.check()
    ledger.add([1, 2], [len(ledger.cache.branches) - 1, ROOT])


def walk_up(rows: Branches, row: int) -> list[int]:
    path: list[int] = []
    while row != ROOT:
        path.insert(0, row)
        row = rows.parents[row]
    return path


def below(rows: Branches, path: list[int], numbers: list[int]) -> list[int]:
    """Some of the rows below the path's end, those whose turn it is by `numbers` left out."""
    kept: list[int] = []
    for row in range(len(rows)):
        hangs = rows.parents[row] in (path[-1] if path else ROOT, *kept) and row not in path
        if hangs and numbers[row % len(numbers)] % 3:
            kept.append(row)
    return kept


@makers
@settings(max_examples=25)
@given(script=steps, window=st.sampled_from([None, 1, 3, 6]))
def test_attention_is_the_naive_one_through_rebases_and_truncations(
    make: Callable[[int | None], Ledger], script: list[tuple[str, list[int], int]], window: int | None,
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dense, "FIRST_ROWS", 3)  # the buffers grow on the way
        play(make(window), script)


@settings(max_examples=15)
@given(script=steps, scores=st.sampled_from([1, 40, 100]))
def test_blocks_of_queries_change_nothing(script: list[tuple[str, list[int], int]], scores: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attention, "SCORES", scores)
        play(viewing(3), script)


@settings(max_examples=25)
@given(keys=st.integers(2, 9), n=st.integers(1, 5), data=st.data())
def test_two_parts_merge_to_the_whole(keys: int, n: int, data: st.DataObject) -> None:
    random = torch.Generator().manual_seed(data.draw(st.integers(0, 1000)))
    q, k, v = (torch.randn(h, m, DIM, generator=random) for h, m in ((HEADS, n), (KV_HEADS, keys), (KV_HEADS, keys)))
    seen = torch.rand(n, keys, generator=random) < 0.6
    seen[:, -1] = True
    bias = torch.zeros(n, keys).masked_fill(~seen, -torch.inf)
    cut = data.draw(st.integers(1, keys - 1))
    parts = [attention.attend_part(q, k[:, s], v[:, s], bias[:, s]) for s in (slice(0, cut), slice(cut, keys))]
    whole = naive(q, k, v, seen)
    torch.testing.assert_close(attention.merge(parts[0], parts[1]).double(), whole, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(attention.merge(parts[1], parts[0]).double(), whole, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(attention.attend(q, k, v, bias).double(), whole, atol=1e-5, rtol=1e-5)


def test_a_part_no_query_sees_weighs_nothing() -> None:
    q, k, v = torch.ones(HEADS, 1, DIM), torch.randn(KV_HEADS, 3, DIM), torch.randn(KV_HEADS, 3, DIM)
    unseen = attention.attend_part(q, k, v, torch.full((1, 3), -torch.inf))
    assert torch.equal(unseen.out, torch.zeros_like(unseen.out))
    assert bool((unseen.log_sum_exp == -torch.inf).all())


def test_scores_far_beyond_the_range_of_exp_stay_finite() -> None:
    ledger = viewing(None)
    q = 200 * ledger.normal(HEADS, 1, DIM)
    k, v = ledger.normal(2, KV_HEADS, 1, DIM)
    out = ledger.cache.attend(0, q, k, v, visible_rows(5, [ROOT], 1, None))
    whole = torch.cat((ledger.committed[0], torch.stack((k, v))), 2)
    expected = naive(q, whole[0], whole[1], torch.ones(1, 6, dtype=torch.bool))
    torch.testing.assert_close(out.double(), expected, atol=1e-4, rtol=1e-4)


@makers
@pytest.mark.parametrize(("path", "survivors"), [
    ([1], []), ([0, 2], []), ([0, 0], []), ([2, 0], []), ([0], [2]), ([0], [0]), ([0, 1], [2]), ([], [1]), ([], [1, 0]),
])
def test_a_rebase_that_does_not_hang_together_changes_nothing(
    make: Callable[[int | None], Ledger], path: list[int], survivors: list[int]
) -> None:
    ledger = make(None)
    ledger.add([7, 8, 9], [ROOT, 0, ROOT])
    before = ledger.cache.branches
    with pytest.raises(ValueError, match=r"path|row"):
        ledger.cache.rebase(path, survivors)
    ledger.check()
    assert ledger.cache.branches == before
    ledger.add([3, 4], [1, ROOT])


@makers
def test_survivors_are_renumbered_in_the_order_asked_for(make: Callable[[int | None], Ledger]) -> None:
    ledger = make(None)
    ledger.add([7, 8, 9, 10, 11], [ROOT, 0, 0, 2, ROOT])
    assert ledger.rebase([0], [2, 3, 1]) == {2: 0, 3: 1, 1: 2}
    assert ledger.cache.branches == Branches((9, 10, 8), (ROOT, 0, ROOT))
    ledger.add([1, 2, 3], [0, 1, 2])


@makers
def test_rows_that_were_never_admitted_are_forgotten(make: Callable[[int | None], Ledger]) -> None:
    ledger = make(None)
    ledger.add([7, 8], [ROOT, 0])
    ledger.add([1, 2, 3], [1, 1, ROOT], admitted=False)
    ledger.check()
    ledger.add([5], [0])


@makers
@pytest.mark.parametrize("window", [None, 3])
def test_what_follows_a_truncation_keeps_its_window(
    make: Callable[[int | None], Ledger], window: int | None
) -> None:
    ledger = make(window)
    ledger.commit(9, 8, 7)
    ledger.truncate(2)
    ledger.commit(6, 5, 4, 3)
    ledger.add([2], [ROOT])


@makers
def test_truncating_forgets_the_tree_and_says_what_is_kept(make: Callable[[int | None], Ledger]) -> None:
    ledger = make(None)
    ledger.commit(9, 8, 7)
    ledger.add([1], [ROOT])
    whole = len(ledger.tokens)
    assert ledger.truncate(whole + 5) == whole
    assert len(ledger.cache.branches) == 0
    assert [ledger.truncate(n) for n in (whole - 1, whole - 1, 1, 0)] == [whole - 1, whole - 1, 1, 0]
    ledger.check()
    ledger.commit(4, 4, 4)


def test_nbytes_is_what_the_buffers_take() -> None:
    ledger = alone(None)
    assert ledger.cache.nbytes == 0
    ledger.commit(*range(10))
    assert ledger.cache.nbytes == LAYERS * 2 * KV_HEADS * dense.FIRST_ROWS * DIM * 4
    ledger.commit(*range(dense.FIRST_ROWS))
    assert ledger.cache.nbytes == LAYERS * 2 * KV_HEADS * 2 * dense.FIRST_ROWS * DIM * 4


def test_a_view_counts_its_own_tail_alone() -> None:
    base = alone(None)
    base.commit(1, 2, 3)
    view = over_a_view(base)
    assert view.cache.nbytes == 0
    view.add([5], [ROOT])
    assert view.cache.nbytes == LAYERS * 2 * KV_HEADS * dense.FIRST_ROWS * DIM * 4


def test_k_and_v_are_never_repeated_for_grouped_queries(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("repeated")

    for name in ("repeat_interleave", "repeat"):
        monkeypatch.setattr(torch.Tensor, name, refuse)
    rows = visible_rows(0, [ROOT], 1, None)
    q, k, v = torch.randn(HEADS, 1, DIM), torch.randn(KV_HEADS, 1, DIM), torch.randn(KV_HEADS, 1, DIM)
    out = DenseCache(1).attend(0, q, k, v, rows)
    assert torch.allclose(out.unflatten(0, (KV_HEADS, -1)), v[:, None].expand(-1, HEADS // KV_HEADS, -1, -1), atol=1e-6)


def test_an_unknown_view_is_refused_with_a_hint() -> None:
    with pytest.raises(WrongUsage, match="mirror") as caught:
        DenseCache(1).view("mirror")
    assert caught.value.hint


def test_a_view_leaves_its_base_alone() -> None:
    base = alone(None)
    base.commit(1, 2, 3, 4)
    base.add([5, 6], [ROOT, 0])
    view = over_a_view(base)
    view.commit(7, 8)
    view.truncate(2)
    view.commit(9)
    base.check()
    base.add([7], [1])
    assert list(view.cache.tokens) == [1, 2, 9]


@pytest.mark.parametrize("change", ["rebase", "truncate"])
def test_a_change_of_the_base_drops_the_views_tail(change: str) -> None:
    base = alone(None)
    base.commit(1, 2, 3, 4)
    base.add([5, 6], [ROOT, 0])
    view = over_a_view(base)
    view.commit(7, 8)
    view.add([9], [ROOT])
    if change == "rebase":
        base.rebase([0], [1])
    else:
        base.truncate(2)
    after = over_a_view(base)
    after.cache = view.cache
    after.check()
    after.add([3, 4], [ROOT, 0])


def test_a_tree_of_the_base_is_not_seen_by_the_view() -> None:
    base = alone(None)
    base.commit(1, 2)
    view = over_a_view(base)
    base.add([5, 6], [ROOT, 0])
    assert len(view.cache.branches) == 0
    view.add([7], [ROOT])


def test_a_view_has_no_view_of_its_own() -> None:
    with pytest.raises(WrongUsage):
        alone(None).cache.view("full").view("full")


def test_a_cache_may_be_rebased_outside_inference_mode() -> None:
    ledger = alone(None)
    with torch.inference_mode():
        ledger.commit(1, 2)
        ledger.add([3, 4, 5], [ROOT, 0, 0])
    ledger.rebase([0, 2])
    ledger.add([6], [ROOT])


def test_a_cache_of_planned_rows_never_outgrows_them() -> None:
    cache = DenseCache(1, rows=40)
    for length in (1, 20, 19):
        x = torch.randn(2, length, 8)
        seen = torch.ones(length, length, dtype=torch.bool).tril()
        rows = Rows(torch.arange(length), seen, torch.zeros(length), range(-1, length - 1))
        cache.attend(0, x, x, x, rows)
        cache.admit(range(length), range(-1, length - 1))
        cache.rebase(range(length))
        assert cache.nbytes == 2 * 2 * 40 * 8 * 4


@makers
def test_what_it_begins_with_is_found_again_after_a_cut(make: Callable[[int | None], Ledger]) -> None:
    """The same object, asked for again: only what was added is compared, but never less than what has changed."""
    ledger = make(None)
    base = len(ledger.tokens)
    ledger.commit(0, 1, 2, 3)
    ledger.check()
    ledger.truncate(base + 1)
    ledger.check()
    ledger.commit(7, 2, 3)
    ledger.check()
    ledger.truncate(0)
    ledger.check()
