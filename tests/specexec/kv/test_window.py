"""A window is what a model would attend to if the rows dropped had never been: positions close up, whole texts long."""

from collections.abc import Callable, Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from specexec.errors import WrongUsage
from specexec.kv.cache import KVCache
from specexec.kv.window import BlockWindow, DenseWindow, Sight, turned
from specexec.tree import ROOT
from tests.kernels import need
from tests.specexec.kv.test_dense import naive, visible_rows

LAYERS, HEADS, KV_HEADS, DIM = 2, 4, 2, 16
FREQUENCIES = 10000.0 ** (-torch.arange(DIM // 2) / (DIM // 2))
SIGHT = Sight(sinks=16, recent=32, slack=8)
Made = Callable[[Sight], KVCache]


def blocks(sight: Sight) -> KVCache:
    need()
    return BlockWindow(LAYERS, KV_HEADS, DIM, FREQUENCIES, sight)


def dense(sight: Sight) -> KVCache:
    return DenseWindow(LAYERS, FREQUENCIES, sight)


makers = pytest.mark.parametrize(("make", "tolerance"), [(dense, 1e-4), (blocks, 0.05)])


class Text:
    """Raw keys and values of every row committed, and the cache that was given them as RoPE turns them."""

    def __init__(self, cache: KVCache) -> None:
        self.cache, self.random = cache, torch.Generator().manual_seed(0)
        self.rows: list[torch.Tensor] = []  # each [layers, 2, kv_heads, dim], as they are before RoPE
        self.kept: list[int] = []  # which of them the cache is to hold

    def normal(self, *shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=self.random)

    def add(self, n: int, tolerance: float) -> None:
        """A chain of n tokens: attended, compared, committed."""
        new = [self.normal(LAYERS, 2, KV_HEADS, DIM) for _ in range(n)]
        start = len(self.rows)
        rows = visible_rows(start, range(ROOT, n - 1), n, None)
        for layer in range(LAYERS):
            q = self.normal(HEADS, n, DIM) * DIM**-0.5
            k, v = torch.stack([row[layer] for row in new], 2)
            at = [turned(x, start + i, FREQUENCIES) for i, x in enumerate(k.unbind(1))]
            asked = torch.stack([turned(x, start + i, FREQUENCIES) for i, x in enumerate(q.unbind(1))], 1)
            out = self.cache.attend(layer, asked, torch.stack(at, 1), v, rows)
            torch.testing.assert_close(out.double(), self.wanted(layer, q, new), atol=tolerance, rtol=0)
        self.cache.admit(range(n), range(ROOT, n - 1))
        self.cache.rebase(range(n))
        self.rows += new
        self.kept += range(start, start + n)

    def wanted(self, layer: int, q: torch.Tensor, new: Sequence[torch.Tensor]) -> torch.Tensor:
        """Attention over the rows kept, at positions that have no gap."""
        k, v = torch.stack([row[layer] for row in [*(self.rows[i] for i in self.kept), *new]], 2)
        place = lambda x, first: torch.stack([turned(y, first + i, FREQUENCIES) for i, y in enumerate(x.unbind(1))], 1)  # noqa: E731
        seen = torch.ones(len(new), k.shape[1], dtype=torch.bool).tril(len(self.kept))
        return naive(place(q, len(self.kept)), place(k, 0), v, seen)

    def slid(self, sight: Sight) -> None:
        """What the cache drops after each commit."""
        if len(self.kept) > sight.most:
            self.kept = [*self.kept[: sight.sinks], *self.kept[-sight.recent :]]


@makers
def test_positions_close_up_however_long_the_text_is(make: Made, tolerance: float) -> None:
    text = Text(make(SIGHT))
    for n in (40, 1, 1, 30, 5, 200, 1, 20, 1, 1, 60):
        text.add(n, tolerance)
        text.slid(SIGHT)
        assert text.cache.length == len(text.rows)
    assert text.cache.nbytes < make_bytes(make)


def make_bytes(make: Made) -> int:
    """Of a cache that kept everything: 360 rows and what buffers grow by."""
    return LAYERS * 2 * KV_HEADS * 768 * 32 * 4


@makers
@settings(max_examples=20)
@given(steps=st.lists(st.one_of(st.integers(1, 50), st.integers(-40, -1)), max_size=12))
def test_truncated_it_goes_on_with_what_it_holds(make: Made, tolerance: float, steps: list[int]) -> None:
    text = Text(make(SIGHT))
    for step in steps:
        if step > 0:
            text.add(step, tolerance)
            text.slid(SIGHT)
        else:
            length = max(0, len(text.rows) + step)
            kept = text.cache.truncate(length)
            assert kept in (0, length)
            text.rows, text.kept = text.rows[:kept], [row for row in text.kept if row < kept]
            assert text.cache.length == kept
    text.add(1, tolerance)


@makers
def test_behind_what_it_holds_it_starts_anew(make: Made, tolerance: float) -> None:
    text = Text(make(SIGHT))
    text.add(200, tolerance)
    assert text.cache.truncate(150) == 0
    assert (text.cache.length, list(text.cache.tokens)) == (0, [])
    text.rows, text.kept = [], []
    text.add(20, tolerance)


@makers
@pytest.mark.parametrize("before", [16, 40, 100])
def test_what_nobody_would_see_is_leapt_over(make: Made, tolerance: float, before: int) -> None:
    text = Text(make(SIGHT))
    text.add(before, tolerance)
    text.cache.leap(range(300))
    assert text.cache.length == before + 300 - SIGHT.recent
    text.rows += [text.normal(LAYERS, 2, KV_HEADS, DIM) for _ in range(300 - SIGHT.recent)]
    text.kept = list(range(SIGHT.sinks))
    for n in (SIGHT.recent, 1, 30, 1):
        text.add(n, tolerance)
        text.slid(SIGHT)
    text.cache.leap(range(SIGHT.recent))
    assert text.cache.length == len(text.rows), "all of these will be seen"


@makers
def test_a_subtree_outlives_a_slide(make: Made, tolerance: float) -> None:
    text = Text(make(SIGHT))
    text.add(SIGHT.most, tolerance)
    rows = visible_rows(SIGHT.most, [ROOT, 0, 0], 3, None)
    k, v = text.normal(2, KV_HEADS, 3, DIM)
    for layer in range(LAYERS):
        text.cache.attend(layer, text.normal(HEADS, 3, DIM), k, v, rows)
    text.cache.admit([1, 2, 3], [ROOT, 0, 0])
    assert text.cache.rebase([0], [2]) == {2: 0}  # one row too many: it slides
    q = text.normal(HEADS, 1, DIM)
    found = text.cache.attend(0, q, k[:, :1], v[:, :1], visible_rows(SIGHT.most + 1, [ROOT, 0], 1, None))
    far = 50 * torch.nn.functional.normalize(k[:, 2], dim=-1)
    own = text.cache.attend(0, far.repeat_interleave(2, 0)[:, None], -k[:, :1], v[:, :1],
                            visible_rows(SIGHT.most + 1, [ROOT, 0], 1, None))
    assert found.isfinite().all()
    torch.testing.assert_close(own[:, 0], v[:, 2].repeat_interleave(2, 0), atol=0.05, rtol=0.05)  # the survivor is there


def test_a_cache_that_forgets_has_no_views() -> None:
    with pytest.raises(WrongUsage):
        dense(SIGHT).view("retrieval")
