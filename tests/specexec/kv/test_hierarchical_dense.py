"""Quantised keys and values in torch: attention against float64, whatever trees and cuts, and the same bits afterwards."""


import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from specexec.errors import WrongUsage
from specexec.kernels import hierarchical
from specexec.kernels.hierarchical import GROUP
from specexec.kv.cache import KVCache, Rows
from specexec.kv.choice import Gather
from specexec.kv.hierarchical_dense import HierarchicalDense
from specexec.kv.quantised import BITS
from specexec.kv.retrieval import DenseGathering
from specexec.tree import ROOT
from tests.specexec.kv.test_dense import DIM, HEADS, KV_HEADS, LAYERS, Ledger, naive, visible_rows

CPU = torch.device("cpu")
FEW = Gather(rows=64, chunk=16, first=16, recent=16, stride=16)
both = pytest.mark.parametrize("bits", [4, 8])


class Rounded(Ledger):
    """A ledger whose queries see whole groups before their own in `bits` bits."""

    def __init__(self, cache: KVCache, bits: int, window: int | None = None) -> None:
        super().__init__(cache, window)
        self.bits = bits

    def wanted(self, q: torch.Tensor, kv: torch.Tensor, rows: Rows) -> torch.Tensor:
        """Each query over its own path, window included."""
        found, full = [], visible_rows(len(self.tokens), rows.parents, q.shape[1], None).visible
        for i in range(q.shape[1]):
            path = [*range(len(self.tokens)), *(len(self.tokens) + full[i].nonzero().flatten()).tolist()]
            whole = (len(path) - 1) // GROUP * GROUP
            k, v = hierarchical.rounded(*kv[:, :, path[:whole]], self.bits)
            k, v = (torch.cat((part, of[:, path[whole:]]), 1) for part, of in ((k, kv[0]), (v, kv[1])))
            seen = torch.arange(len(path)) >= rows.first_visible[i]
            found.append(naive(q[:, i : i + 1], k, v, seen))
        return torch.cat(found, 1)


def cache(bits: int = 8, **sizes: int) -> HierarchicalDense:
    return HierarchicalDense(LAYERS, KV_HEADS, DIM, bits, CPU, **sizes)


new_rows = st.lists(st.integers(0, 20), min_size=1, max_size=6)
lengths = st.one_of(st.integers(1, 300), st.integers(122, 130), st.integers(250, 258))
kinds = st.sampled_from(["add", "add", "rebase", "truncate", "prompt"])
steps = st.lists(st.tuples(kinds, new_rows, st.integers(0, 300)), max_size=6)


@settings(max_examples=25)
@given(bits=st.sampled_from([4, 8]), length=lengths, script=steps, window=st.sampled_from([None, None, 16, 200]))
def test_any_sequence_of_calls_attends_exactly(
    bits: int, length: int, script: list[tuple[str, list[int], int]], window: int | None
) -> None:
    ledger = Rounded(cache(bits), bits, window)
    ledger.commit(*range(length))
    for what, numbers, number in script:
        rows = len(ledger.cache.branches)
        if what == "add":
            ledger.add(numbers, [(parent % (rows + i + 1)) - 1 for i, parent in enumerate(numbers)])
        elif what == "rebase" and rows:
            path = [row := number % rows]
            while (row := ledger.cache.branches.parents[row]) != ROOT:
                path.insert(0, row)
            ledger.rebase(path, ledger.cache.branches.below(path[-1]))
        elif what == "truncate":
            ledger.truncate(number)
        elif what == "prompt":
            ledger.rebase([])
            ledger.commit(*range(number // 2 + 1))
        ledger.check()


@both
def test_a_wide_tree_at_a_border_ends_many_groups(bits: int) -> None:
    """Forty paths, each with a group of its own, in several parts; then one of them is committed."""
    ledger = Rounded(cache(bits), bits)
    ledger.commit(*range(GROUP - 2))
    ledger.add(range(40), [ROOT] * 40)
    ledger.add(range(40), range(40))
    ledger.add(range(80), [40 + i // 2 for i in range(80)])
    ledger.rebase([7, 47, 94])
    assert (ledger.cache.length, ledger.cache.made) == (GROUP + 1, 1)  # type: ignore[attr-defined]
    ledger.add([1, 2], [ROOT, 0])


def test_few_rows_are_taken_back_for_nothing_and_more_by_whole_groups() -> None:
    held = cache()
    ledger = Rounded(held, 8)
    ledger.commit(*range(600))
    assert (held.length, held.start, held.made) == (600, 3 * GROUP, 4)
    assert ledger.truncate(500) == 500
    assert ledger.truncate(384) == 384
    assert ledger.truncate(383) == 256
    assert (held.held, held.made) == (0, 2)
    ledger.commit(*range(200))
    assert ledger.truncate(1) == 0


def state(of: HierarchicalDense) -> list[torch.Tensor]:
    """All that a later query can read."""
    groups = [part[:, : of.made] for one in of.groups for part in one.parts()]
    rows = [kv[:, :, of.made * GROUP - of.start : of.held] for kv in of._kv if kv is not None]
    return [*groups, *rows]


@settings(max_examples=15)
@given(cuts=st.lists(st.integers(0, 620), min_size=1, max_size=4), end=st.integers(300, 620),
       step=st.sampled_from([37, 200, 620]))
def test_truncated_and_replayed_it_is_the_same_to_the_last_bit(cuts: list[int], end: int, step: int) -> None:
    kv = torch.randn(LAYERS, 2, KV_HEADS, 620, DIM, generator=torch.Generator().manual_seed(1))
    played, straight = cache(), cache()
    for length in [620, *cuts, end]:
        played.truncate(length)
        while played.length < length:
            fed(played, kv[..., played.length : min(length, played.length + step), :])
    fed(straight, kv[..., :end, :])
    assert all(torch.equal(a, b) for a, b in zip(state(played), state(straight), strict=True))


def fed(into: HierarchicalDense, kv: torch.Tensor) -> None:
    count = kv.shape[3]
    rows = visible_rows(into.length, range(ROOT, count - 1), count, None)
    for layer in range(LAYERS):
        into.attend(layer, torch.zeros(HEADS, count, DIM), kv[layer, 0], kv[layer, 1], rows)
    into.admit(range(count), range(ROOT, count - 1))
    into.rebase(range(count))


@pytest.mark.parametrize("length", [100, 300, 517, 640])
def test_the_view_reads_the_upper_half_and_the_buffer_whole(length: int) -> None:
    base = cache()
    ledger = Rounded(base, 8)
    ledger.commit(*range(length))
    view, tail = base.view("int4"), torch.randn(2, KV_HEADS, 3, DIM)
    for layer in range(LAYERS):
        q, rows = torch.randn(HEADS, 3, DIM), visible_rows(length, (ROOT, 0, 0), 3, None)
        found = view.attend(layer, q, *tail, rows)
        k, v = (torch.cat(parts, 1) for parts in zip(seen(base, ledger.committed[layer], 4), tail, strict=True))
        mask = torch.cat((torch.ones(3, length, dtype=torch.bool), rows.visible), 1)
        torch.testing.assert_close(found.double(), naive(q, k, v, mask), atol=1e-5, rtol=1e-5)
    view.admit([1, 2, 3], (ROOT, 0, 0))
    assert view.nbytes > 0
    assert view.truncate(length - 1) == (length - 1 if length - 1 >= base.start else (length - 1) // GROUP * GROUP)
    assert view.truncate(50) == (50 if base.start == 0 else 0)


def seen(base: HierarchicalDense, kv: torch.Tensor, bits: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(k, v) of all committed rows, those that have left the buffer in so many bits."""
    read = hierarchical.rounded(*kv[:, :, : base.start], bits)
    keys, values = (torch.cat((of, own[:, base.start :]), 1) for of, own in zip(read, kv, strict=True))
    return keys, values


@both
@pytest.mark.parametrize("kind", ["retrieval", "window"])
def test_views_of_chosen_rows_read_the_upper_half_too(bits: int, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("specexec.kv.retrieval.KINDS", {"retrieval": FEW, "window": FEW})
    base = cache(bits)
    ledger = Rounded(base, bits)
    view = base.view(kind)
    assert isinstance(view, DenseGathering)
    ledger.commit(*range(437))
    q, rows, tail = torch.randn(HEADS, 1, DIM), visible_rows(437, (ROOT,), 1, None), torch.randn(2, KV_HEADS, 1, DIM)
    for layer in range(LAYERS):
        found, at = view.attend(layer, q, *tail, rows), view._rows[layer]
        for head in range(KV_HEADS):
            chosen = at[head][(at[head] >= 0) & (at[head] < 437)]
            k, v = (torch.cat((of[head : head + 1, chosen], own[head : head + 1]), 1)
                    for of, own in zip(seen(base, ledger.committed[layer], 4), tail, strict=True))
            of = slice(head * HEADS // KV_HEADS, (head + 1) * HEADS // KV_HEADS)
            mask = torch.ones(1, k.shape[1], dtype=torch.bool)
            torch.testing.assert_close(found[of].double(), naive(q[of], k, v, mask), atol=1e-5, rtol=1e-5)


def test_the_means_of_chunks_are_those_of_the_upper_nibbles() -> None:
    base = cache()
    ledger = Rounded(base, 8)
    ledger.commit(*range(700))
    for layer in range(LAYERS):
        wanted = seen(base, ledger.committed[layer], 4)[0][:, :672].reshape(KV_HEADS, 42, 16, DIM).mean(2)
        torch.testing.assert_close(base.mean_keys(layer, 3, 42, 16), wanted[:, 3:], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("kv", "kind"), [("int8", "full"), ("int4", "int4"), ("int8", "int3")])
def test_there_are_no_other_views(kv: str, kind: str) -> None:
    with pytest.raises(WrongUsage, match=kind) as caught:
        cache(BITS[kv]).view(kind)
    assert "--draft-kv" in caught.value.hint


def test_a_cache_of_a_known_size_takes_all_at_once_and_no_more() -> None:
    held = cache(most=640, tree=100)
    before = sum(one.nbytes for one in held.groups)
    ledger = Rounded(held, 8)
    for count in (100, 90, 100, 100, 100, 100, 50):
        ledger.commit(*range(count))
        ledger.add(range(100), [ROOT] * 100)
        ledger.rebase([])
    assert sum(one.nbytes for one in held.groups) == before
    assert [kv.shape[2] for kv in held._kv if kv is not None] == [2 * GROUP + 100] * LAYERS
