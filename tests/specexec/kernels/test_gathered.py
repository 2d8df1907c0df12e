"""Attention over rows gathered from another cache, read in place, then the own cache's: against float64."""

from collections.abc import Sequence
from ctypes import pointer

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from specexec.kernels import attention
from specexec.tree import depths
from tests.kernels import threads
from tests.specexec.kernels.test_attention import LIMIT, Made, Out, equal, made, over, placed, shapes

pytestmark = pytest.mark.usefixtures("every_set")


def chosen(kv_heads: int, position: int, share: float, seed: int = 0) -> torch.Tensor:
    """int32[kv_heads, blocks, 8]: in every head as many of the eights, others in each."""
    every = -(-position // 8)
    count, random = max(1, int(share * every)), torch.Generator().manual_seed(seed)
    eights = torch.full((kv_heads, -(-count // 8) * 8), -1, dtype=torch.int32)
    for head in eights:
        head[:count] = torch.randperm(every, generator=random)[:count].sort().values
    return eights.view(kv_heads, -1, 8)


class World:
    """`position` rows of another cache, of which each KV head sees some eights, and a cache that begins behind them."""

    def __init__(self, case: Made, position: int, eights: torch.Tensor, committed: int, parents: Sequence[int]) -> None:
        self.q, self.k, self.v = case
        self.position, self.eights, self.committed, self.parents = position, eights, committed, list(parents)
        self.base = placed(self.k, self.v, position)
        for part in self.base if position % 64 else ():
            part.view(len(self.k), -1)[:, -1] = torch.nan  # nobody may look at rows that are not there
        self.own = placed(self.k[:, position:], self.v[:, position:], committed + len(parents))

    def found(self, first: Sequence[int]) -> Out:
        struct, above = attention.struct(*self.own), attention.gathered(*self.base, self.eights)
        struct.position, struct.gathered = self.position, pointer(above)
        q = torch.nn.functional.pad(self.q, (0, -self.q.shape[2] % attention.DIMS)).contiguous()
        out, sums = torch.full(self.q.shape, torch.nan), torch.full(self.q.shape[:2], torch.nan)
        attention.attend(q, struct, self.committed, torch.tensor(self.parents, dtype=torch.int32),
                         torch.tensor(first, dtype=torch.int32), out, sums)
        return out, sums

    def wanted(self, first: Sequence[int]) -> Out:
        seen = torch.zeros(len(self.q), len(self.k), self.k.shape[1], dtype=torch.bool)
        for head, eights in enumerate(self.eights.flatten(1).tolist()):
            for eight in eights:
                seen[:, head, max(0, 8 * eight) : max(0, min(8 * eight + 8, self.position))] = True
        border = self.position + self.committed
        for i, row in enumerate(range(len(self.parents) - len(self.q), len(self.parents))):
            seen[i, :, self.position : border] = True
            seen[i, :, : first[i]] = False
            seen[i, :, attention.path(self.parents, row, border)[max(0, first[i] - border) :]] = True
        return attention.gathered_reference(self.q, self.k, self.v, seen)

    def check(self, window: int | None = None) -> None:
        border = self.position + self.committed
        first = [max(0, border + depth + 1 - window) if window else 0 for depth in depths(self.parents)[-len(self.q) :]]
        (out, sums), (wanted, wanted_sums) = self.found(first), self.wanted(first)
        assert (out - wanted).abs().max() <= LIMIT * self.v.abs().max()
        assert bool(((sums - wanted_sums).abs() <= LIMIT * wanted_sums.abs().clamp(min=1)).all())


@pytest.mark.parametrize(("heads", "kv_heads"), [(1, 1), (4, 2), (3, 1), (7, 1), (16, 2), (12, 1)])
@pytest.mark.parametrize("dim", [32, 80, 128])
def test_gathered_rows_and_a_tree(heads: int, kv_heads: int, dim: int) -> None:
    parents = [-1, 0, 0, 1, 2, 1, 5, -1, 7, 3, 9, 10, 0]
    for position, committed in ((3, 0), (100, 5), (700, 130)):
        for share in (0.1, 0.5, 1.0):
            case = made(heads, kv_heads, dim, position + committed + 13, 13)
            World(case, position, chosen(kv_heads, position, share), committed, parents).check()


@settings(max_examples=60)
@given(parents=shapes, position=st.integers(1, 900), committed=st.integers(0, 150), share=st.floats(0, 1),
       window=st.sampled_from([None, 1, 50, 300]), seed=st.integers(0, 99), count=st.sampled_from([1, 2]), data=st.data())
def test_any_choice_tree_and_window(
    parents: list[int], position: int, committed: int, share: float, window: int | None, seed: int, count: int,
    data: st.DataObject,
) -> None:
    n = data.draw(st.integers(1, min(len(parents), 8)))
    case = made(4, 2, 48, position + committed + len(parents), n, seed)
    with threads(count):
        World(case, position, chosen(2, position, share, seed), committed, parents).check(window)


@pytest.mark.parametrize("position", [4096, 4100, 9000])
@pytest.mark.parametrize("count", [1, 2])
def test_choices_of_several_chunks(position: int, count: int) -> None:
    with threads(count):
        for share in (0.6, 1.0):
            World(made(4, 2, 64, position + 5, 3), position, chosen(2, position, share), 2, [-1, 0, 0]).check()


def test_all_of_them_are_the_whole_to_the_last_bit_where_blocks_are_the_same() -> None:
    """64 times 64 gathered rows are a chunk of the canonical order: nothing may differ from a cache that holds them."""
    q, k, v = made(8, 2, 64, 4096 + 3, 3)
    world = World((q, k, v), 4096, chosen(2, 4096, 1.0), 0, [-1, 0, 1])
    assert equal(world.found([0, 0, 0]), over(placed(k, v, 4099), q, 4096, [-1, 0, 1], [0, 0, 0]))
