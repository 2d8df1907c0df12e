"""Attention over blocks of keys against float64, and the promise: a query's result depends on its own path alone.

Tolerance: what fp32 rounds. A score is a sum of dim products, so it is off by some units of 2^-24 of the sum of their
magnitudes, and a weight by as much relative to itself; exp adds two units, and each chunk's sums some more. Relative to the
largest value, at most 16 units were measured; LIMIT is twice that.
"""

from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from specexec.kernels import attention
from specexec.tree import ROOT, depths
from tests.kernels import ULP, normal, threads

pytestmark = pytest.mark.usefixtures("every_set")

LIMIT = 32 * ULP
Out = tuple[torch.Tensor, torch.Tensor]
Made = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
groups = pytest.mark.parametrize(("heads", "kv_heads"), [(1, 1), (4, 2), (3, 1), (8, 2), (7, 1), (16, 2)])
dims = pytest.mark.parametrize("dim", [32, 64, 80, 96, 128])


def attended(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, committed: int, parents: Sequence[int],
             first: Sequence[int]) -> Out:
    """(out[n, heads, dim], log_sum_exp[n, heads]) of q[n, heads, dim] over a cache that holds k, v[kv_heads, rows, dim]."""
    return over(placed(k, v, committed + len(parents)), q, committed, parents, first)


def placed(k: torch.Tensor, v: torch.Tensor, rows: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A cache with the first rows of k and v."""
    cache = attention.empty_cache(len(k), -(-rows // 64) * 64, k.shape[2])
    attention.place(*cache, k[:, :rows], v[:, :rows], 0)
    return cache


def over(cache: tuple[torch.Tensor, torch.Tensor], q: torch.Tensor, committed: int, parents: Sequence[int],
         first: Sequence[int]) -> Out:
    asked = torch.nn.functional.pad(q, (0, -q.shape[2] % attention.DIMS)).contiguous()
    out, sums = torch.full(q.shape, torch.nan), torch.full(q.shape[:2], torch.nan)
    attention.attend(asked, attention.struct(*cache), committed, torch.tensor(parents, dtype=torch.int32),
                     torch.tensor(first, dtype=torch.int32), out, sums)
    return out, sums


def windowed(committed: int, parents: Sequence[int], n: int, window: int | None) -> list[int]:
    """The first position that each of the last n rows of the tree sees."""
    return [max(0, committed + depth + 1 - window) if window else 0 for depth in depths(parents)[-n:]]


def made(heads: int, kv_heads: int, dim: int, rows: int, n: int, seed: int = 0) -> Made:
    """q scaled as engines scale it, and k, v in what bf16 holds."""
    k, v = normal(2, kv_heads, rows, dim, seed=seed).bfloat16().float()
    return 2 * normal(n, heads, dim, seed=seed + 1) * dim**-0.5, k, v


def check(case: Made, committed: int, parents: Sequence[int], window: int | None) -> None:
    q, k, v = case
    first = windowed(committed, parents, len(q), window)
    out, sums = attended(q, k, v, committed, parents, first)
    wanted, wanted_sums = attention.reference(q, k, v, committed, parents, first)
    assert (out - wanted).abs().max() <= LIMIT * v.abs().max()
    assert bool(((sums - wanted_sums).abs() <= LIMIT * wanted_sums.abs().clamp(min=1)).all())


def chain(n: int) -> list[int]:
    return list(range(ROOT, n - 1))


def tree(numbers: Sequence[int]) -> list[int]:
    """Parents: each number taken modulo what there is."""
    return [number % (i + 1) - 1 for i, number in enumerate(numbers)]


many = st.lists(st.integers(0, 10**6), min_size=1, max_size=40)
deep = st.lists(st.sampled_from([0, -1, -1, -1, -2, -3]), min_size=1, max_size=150)  # chains with a few branches
shapes = st.one_of(many, deep.map(lambda steps: [i + 1 + step for i, step in enumerate(steps)])).map(tree)
prefixes = st.one_of(st.integers(0, 70), st.integers(120, 200), st.integers(4090, 4100))
windows = st.sampled_from([None, 1, 7, 64, 100])


# --- parity


@groups
@dims
def test_a_tree_below_a_prefix(heads: int, kv_heads: int, dim: int) -> None:
    parents = [-1, 0, 0, 1, 2, 1, 5, -1, 7, 3, 9, 10, 0]
    for committed, n in ((0, 13), (5, 13), (60, 4), (130, 13)):
        check(made(heads, kv_heads, dim, committed + 13, n), committed, parents, None)
        check(made(heads, kv_heads, dim, committed + 13, n), committed, parents, 9)


@settings(max_examples=60)
@given(parents=shapes, committed=prefixes, window=windows, seed=st.integers(0, 99), data=st.data())
def test_any_tree_prefix_and_window(
    parents: list[int], committed: int, window: int | None, seed: int, data: st.DataObject
) -> None:
    n = data.draw(st.integers(1, min(len(parents), 8)))
    check(made(4, 2, 48, committed + len(parents), n, seed), committed, parents, window)


@pytest.mark.parametrize("window", [None, 64, 5000])
@pytest.mark.parametrize("committed", [63, 64, 4095, 4096, 4097, 8191, 8192, 9000])
def test_prefixes_across_blocks_and_chunks(committed: int, window: int | None) -> None:
    for count in (1, 2):
        with threads(count):
            check(made(4, 2, 64, committed + 3, 3), committed, [-1, 0, 0], window)


def test_a_long_chain() -> None:
    case = made(2, 1, 32, 400, 400)
    check(case, 0, chain(400), None)
    check(case, 0, chain(400), 33)


@pytest.mark.parametrize("scale", [1e-6, 5.0, 30.0, 1e6])
def test_scores_of_any_size(scale: float) -> None:
    """Larger scores are off by more, and the weights with them; where one leaves all others behind it is the result."""
    q, k, v = made(4, 2, 64, 200, 5)
    out, _ = attended(scale * q, k, v, 195, [-1, 0, 0, 1, 1], [0] * 5)
    wanted, _ = attention.reference(scale * q, k, v, 195, [-1, 0, 0, 1, 1], [0] * 5)
    assert (out - wanted).abs().max() <= LIMIT * min(max(1, scale), 30) * v.abs().max()


# --- committed rows alone


@pytest.mark.parametrize("committed", [1, 64, 100, 5000, 9000])
@pytest.mark.parametrize("window", [None, 50])
@pytest.mark.parametrize("count", [1, 2])
def test_committed_rows_and_a_tree_merge_to_the_whole(committed: int, window: int | None, count: int) -> None:
    q, k, v = made(6, 2, 80, committed + 5, 5)
    parents = [-1, 0, 1, 1, 3]
    first = windowed(committed, parents, 5, window)
    with threads(count):
        above, above_sums = attended(q, k, v, committed, [], first)
    below, below_sums = attended(q, k[:, committed:], v[:, committed:], 0, parents, [max(0, f - committed) for f in first])
    total = torch.logaddexp(above_sums, below_sums)
    merged = above * (above_sums - total).exp()[..., None] + below * (below_sums - total).exp()[..., None]
    wanted, sums = attention.reference(q, k, v, committed, parents, first)
    assert (merged - wanted).abs().max() <= 2 * LIMIT * v.abs().max()  # twice the way
    assert (total - sums).abs().max() <= 2 * LIMIT * sums.abs().max().clamp(min=1)


# --- the promise


class World:
    """A prefix and a tree below it, each row with a query, a key and a value, and a cache that holds the prefix."""

    def __init__(self, heads: int, kv_heads: int, dim: int, committed: int, parents: Sequence[int], window: int | None) -> None:
        self.committed, self.parents, self.window = committed, list(parents), window
        self.q, self.k, self.v = made(heads, kv_heads, dim, committed + len(parents), committed + len(parents))
        self.cache = placed(self.k, self.v, committed + len(parents))

    def ask(self, nodes: Sequence[int], parents: Sequence[int], border: int, n: int) -> Out:
        """The last n of the cache's rows, which are the prefix and these nodes; its first `border` rows are committed."""
        rows = torch.tensor(nodes) + self.committed
        attention.place(*self.cache, self.k[:, rows], self.v[:, rows], self.committed)
        first = windowed(border, parents, n, self.window)
        return over(self.cache, self.q[[*range(self.committed), *rows.tolist()][-n:]], border, parents, first)

    def tree(self, n: int) -> Out:
        """The last n nodes of the tree."""
        return self.ask(range(len(self.parents)), self.parents, self.committed, n)

    def reaching(self, back: int) -> Out:
        """All nodes, where the last `back` rows of the prefix are the tree's trunk."""
        parents = [*chain(back), *(parent + back for parent in self.parents)]
        return self.ask(range(len(self.parents)), parents, self.committed - back, len(self.parents))

    def plain(self, node: int) -> Out:
        """A node below its path, all of which is committed."""
        path = attention.path(self.parents, node, 0)
        return self.ask(path, [ROOT], self.committed + len(path) - 1, 1)

    def wanted(self) -> Out:
        found = [self.plain(node) for node in range(len(self.parents))]
        return torch.cat([out for out, _ in found]), torch.cat([sums for _, sums in found])


def equal(a: Out, b: Out) -> bool:
    return torch.equal(a[0], b[0]) and torch.equal(a[1], b[1])


@settings(max_examples=100)
@given(parents=shapes, committed=prefixes, window=windows, group=st.sampled_from([(1, 1), (4, 2), (3, 1), (7, 1), (8, 1)]),
       count=st.sampled_from([1, 2]), data=st.data())
def test_a_query_s_result_depends_on_its_path_alone(
    parents: list[int], committed: int, window: int | None, group: tuple[int, int], count: int, data: st.DataObject
) -> None:
    world = World(*group, 32, committed, parents, window)
    wanted = world.wanted()
    n = data.draw(st.integers(1, len(parents)))
    with threads(count):
        assert equal(world.tree(len(parents)), wanted)
        assert equal(world.tree(n), (wanted[0][-n:], wanted[1][-n:]))
        assert equal(world.reaching(data.draw(st.integers(0, min(committed, 80)))), wanted)


@settings(max_examples=60)
@given(parents=shapes, committed=prefixes, data=st.data())
def test_nor_does_it_on_the_order_of_the_tree(parents: list[int], committed: int, data: st.DataObject) -> None:
    world = World(4, 2, 32, committed, parents, None)
    depth = depths(parents)
    ranks = data.draw(st.permutations(range(len(parents))))
    order = sorted(range(len(parents)), key=lambda node: (depth[node], ranks[node]))
    place = {old: new for new, old in enumerate(order)} | {ROOT: ROOT}
    wanted = world.wanted()
    found = world.ask(order, [place[parents[node]] for node in order], committed, len(parents))
    assert equal(found, (wanted[0][order], wanted[1][order]))


@pytest.mark.parametrize(("heads", "kv_heads", "dim", "committed", "window"),
                         [(4, 2, 64, 8190, None), (7, 1, 80, 4000, None), (7, 1, 80, 8190, 100), (8, 8, 128, 4000, None)])
def test_the_largest_trees_and_prefixes(heads: int, kv_heads: int, dim: int, committed: int, window: int | None) -> None:
    """256 queries, one, and some, whose keys lie in up to three chunks; some are asked plainly."""
    random = torch.Generator().manual_seed(heads)
    world = World(heads, kv_heads, dim, committed, tree([int(torch.randint(max(0, i - 9), i + 1, (1,), generator=random))
                                                         for i in range(256)]), window)
    with threads(1):
        whole = world.tree(256)
        plain = {node: world.plain(node) for node in range(0, 256, 16)}
    assert all(equal(found, (whole[0][node : node + 1], whole[1][node : node + 1])) for node, found in plain.items())
    with threads(2):
        assert equal(world.reaching(100), whole)
        for n in (1, 2, 31, 256):
            assert equal(world.tree(n), (whole[0][-n:], whole[1][-n:]))
        assert all(equal(world.plain(node), found) for node, found in plain.items())
