"""Quantised caches whose groups are elsewhere: the bits of the same cache in memory, whatever is asked of them."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from offload.errors import OffloadError
from offload.kv_file import KvFile
from specexec.errors import WrongUsage
from specexec.kernels import attention, hierarchical
from specexec.kernels.hierarchical import GROUP
from specexec.kernels.row_groups import RowGroups
from specexec.kv import backing
from specexec.kv.blocks import BlockCache
from specexec.kv.cache import KVCache
from specexec.kv.choice import Gather
from specexec.kv.copied import CopiedBlocks, CopiedDense
from specexec.kv.hierarchical import HierarchicalCache
from specexec.kv.hierarchical_dense import HierarchicalDense
from specexec.kv.offloaded import OffloadedBlocks
from specexec.kv.offloaded_groups import OffloadedGroups
from specexec.kv.offloaded_hierarchical import OffloadedHierarchical, page_record
from specexec.kv.offloaded_hierarchical_dense import OffloadedHierarchicalDense
from specexec.kv.quantised import BITS
from specexec.kv.retrieval import KINDS
from specexec.tree import ROOT
from tests.offload.device import FakeDevice
from tests.offload.test_kv_host import opened
from tests.specexec.kv.test_dense import DIM, HEADS, KV_HEADS, LAYERS, below, visible_rows, walk_up

pytestmark = pytest.mark.usefixtures("compiled")
CPU, MOST = torch.device("cpu"), 16 * GROUP
both = pytest.mark.parametrize("bits", [4, 8])
Cache = HierarchicalCache | HierarchicalDense


@contextmanager
def on_disk(bits: int) -> Iterator[tuple[Cache, Cache]]:
    with TemporaryDirectory() as folder:
        file = KvFile(Path(folder), LAYERS, 1, MOST // GROUP, page_record(KV_HEADS, DIM, bits))
        try:
            yield OffloadedHierarchical(LAYERS, KV_HEADS, DIM, bits, file, 300), HierarchicalCache(LAYERS, KV_HEADS, DIM, bits)
        finally:
            file.close()


@contextmanager
def beside_a_device(bits: int) -> Iterator[tuple[Cache, Cache]]:
    with opened(FakeDevice(3), MOST // GROUP, True, RowGroups.record(KV_HEADS, DIM, bits), 1) as host:
        yield (OffloadedHierarchicalDense(LAYERS, KV_HEADS, DIM, bits, CPU, host, 300),
               HierarchicalDense(LAYERS, KV_HEADS, DIM, bits, CPU))


Places = Callable[[int], object]
places = pytest.mark.parametrize("place", [on_disk, beside_a_device])


class Pair:
    """A cache that is elsewhere and one in memory, of which all is asked that is asked of the other."""

    def __init__(self, away: Cache, here: Cache, window: int | None = None) -> None:
        assert isinstance(away, OffloadedGroups)
        self.away, self.here, self.window = away, here, window
        self.random = torch.Generator().manual_seed(1)
        self.made = torch.empty(LAYERS, 2, KV_HEADS, 0, DIM)  # rows that were committed

    def attend(self, parents: Sequence[int], *caches: KVCache) -> torch.Tensor:
        """Rows of the tree below these parents, seen by both; k and v of them."""
        every = [*caches[0].branches.parents, *parents]
        rows = visible_rows(caches[0].length, every, len(parents), self.window)
        new, q = (torch.randn(LAYERS, 2 * heads, len(parents), DIM, generator=self.random) for heads in (KV_HEADS, HEADS))
        kv = new.unflatten(1, (2, KV_HEADS)).bfloat16().float()
        for layer in range(LAYERS):
            one, other = (cache.attend(layer, q[layer, :HEADS], *kv[layer], rows) for cache in caches)
            assert one.equal(other)
        return kv

    def add(self, parents: Sequence[int]) -> torch.Tensor:
        kv = self.attend(parents, self.away, self.here)
        for cache in (self.away, self.here):
            cache.admit(range(len(parents)), parents)
        return kv

    def commit(self, count: int) -> None:
        """As one chain."""
        self.rebase([])
        kv = self.add(range(ROOT, count - 1))
        self.rebase(range(count))
        self.made = torch.cat((self.made[..., : self.here.length - count, :], kv), 3)

    def rebase(self, path: Sequence[int], survivors: Sequence[int] = ()) -> None:
        assert self.away.rebase(path, survivors) == self.here.rebase(path, survivors)
        self.check()

    def truncate(self, length: int) -> int:
        kept = self.away.truncate(length)
        assert kept == self.here.truncate(length)
        self.check()
        return kept

    def check(self) -> None:
        for what in ("length", "made", "start", "tokens", "branches"):
            assert getattr(self.away, what) == getattr(self.here, what), what
        assert self.away.away <= self.away.made * GROUP

    def play(self, script: list[tuple[str, list[int], int]]) -> None:
        for what, numbers, number in script:
            old = len(self.here.branches)
            if what == "add":
                self.add([one % (old + i + 1) - 1 for i, one in enumerate(numbers)])
            elif what == "rebase":
                path = walk_up(self.here.branches, number % (old + 1) - 1)
                self.rebase(path, below(self.here.branches, path, numbers))
            elif what == "prompt" and self.here.length + number <= MOST:
                self.commit(number % 300 + 1)
            elif what == "truncate":
                self.truncate(number % (self.here.length + 2))


kinds = st.sampled_from(["add", "add", "rebase", "truncate", "prompt"])
steps = st.lists(st.tuples(kinds, st.lists(st.integers(0, 20), min_size=1, max_size=6), st.integers(0, 2000)), max_size=8)


@places
@settings(max_examples=25, deadline=None)
@given(bits=st.sampled_from([4, 8]), kept=st.sampled_from([0, 0, 128, 256]), length=st.sampled_from([3, 300, 511, 640]),
       script=steps, window=st.sampled_from([None, 16, 200]))
def test_its_bits_are_those_of_groups_in_memory(
    place: Places, bits: int, kept: int, length: int, script: list[tuple[str, list[int], int]], window: int | None
) -> None:
    with pytest.MonkeyPatch.context() as patch, place(bits) as caches:  # type: ignore[attr-defined]
        patch.setattr(backing, "KEPT", kept)
        pair = Pair(*caches, window)
        for start in range(0, length, 250):
            pair.commit(min(250, length - start))
        pair.add([ROOT, 0, 0, ROOT, 2])
        pair.rebase([0], [1, 2, 4])  # rows of a tree that move as others leave
        pair.play(script)
        pair.truncate(pair.here.length * 2 // 3)
        pair.commit(290)
        pair.add([ROOT, 0, ROOT])
        assert pair.away.backing.rows or pair.here.length < 2 * GROUP + kept
        for layer in range(LAYERS):
            count = pair.here.length // 16
            assert pair.away.mean_keys(layer, 0, count, 16).equal(pair.here.mean_keys(layer, 0, count, 16))


@places
@both
def test_a_backing_that_fails_leaves_it_as_it_was(place: Places, bits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OffloadError("writing failed: no space left on device.", hint="--kv-place host")

    with place(bits) as caches:  # type: ignore[attr-defined]
        pair = Pair(*caches)
        pair.commit(250)
        with monkeypatch.context() as patch:
            patch.setattr(pair.away.backing, "put", full)
            pair.commit(250)
            with pytest.raises(OffloadError):
                pair.attend([ROOT], pair.away, pair.away)
        pair.check()
        assert pair.away.backing.rows == 0
        pair.add([ROOT, 0])
        assert pair.away.backing.rows == 1


@places
@both
def test_it_takes_what_it_says_and_that_does_not_grow(place: Places, bits: int) -> None:
    with place(bits) as caches:  # type: ignore[attr-defined]
        pair = Pair(*caches)
        for _ in range(4):
            pair.commit(300)
        before = pair.away.nbytes
        for _ in range(3):
            pair.commit(300)
        rows = sum(part.nbytes for kv in pair.away._kv for part in ([kv] if torch.is_tensor(kv) else kv))  # type: ignore[union-attr]
        groups = sum(groups.nbytes for groups in pair.away.groups)
        assert pair.away.nbytes == rows + groups + pair.away.backing.nbytes
        assert pair.away.nbytes == before
        assert groups == LAYERS * 5 * pair.away.backing.row


@pytest.mark.parametrize(("kv", "share"), [("bf16", 1), ("int8", (1 + 4 / GROUP) / 2), ("int4", (0.5 + 4 / GROUP) / 2)])
def test_a_pass_reads_its_share_of_bf16_s_bytes(
    kv: str, share: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """0.52 and 0.27, for heads of 128."""
    heads, dim, rows, read = 4, 128, 8 * GROUP, list[int]()
    monkeypatch.setattr(backing, "KEPT", 0)
    if kv == "bf16":
        file = KvFile(tmp_path, 1, 2 * heads, rows + 64, 2 * dim)
        cache: BlockCache = OffloadedBlocks(1, heads, dim, file)
    else:
        file = KvFile(tmp_path, 1, 1, rows // GROUP, page_record(heads, dim, BITS[kv]))
        cache = OffloadedHierarchical(1, heads, dim, BITS[kv], file, rows)
    for count in (rows, 1):
        parents = range(ROOT, count - 1)
        q, of_rows = torch.randn(heads, count, dim), torch.randn(2, heads, count, dim)
        cache.attend(0, q, *of_rows, visible_rows(cache.length, parents, count, None))
        cache.admit(range(count), parents)
        cache.rebase(range(count))
    file.cut(rows)
    file._reader.close()
    monkeypatch.setattr(file._file, "read", lambda view, at: read.append(len(view)))
    file._fetch(0, 0)
    file.close()
    assert sum(read) == share * 2 * 2 * heads * dim * rows


# --- views

FEW = Gather(rows=64, chunk=16, first=16, recent=16, stride=16)


def seen(pair: Pair, layer: int, bits: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(k, v) of all committed rows, those that have left the buffer in so many bits."""
    start, kv = pair.here.start, pair.made[layer]
    read = hierarchical.rounded(*kv[:, :, :start], bits)
    keys, values = (torch.cat((of, own[:, start:]), 1).bfloat16().float() for of, own in zip(read, kv, strict=True))
    return keys, values


@both
def test_rows_are_copied_by_their_upper_nibbles(bits: int) -> None:
    with on_disk(bits) as caches:
        pair = Pair(*caches)
        for count in (250, 250, 249):
            pair.commit(count)
        pair.add([ROOT])
        cache, to = pair.away, attention.empty_cache(KV_HEADS, 768, DIM)
        assert isinstance(cache, OffloadedHierarchical)
        assert 0 < cache.away < cache.start
        for eights in (torch.arange(93), torch.arange(cache.away // 8, 93), torch.arange(0)):
            cache.pick(1, to, 0, eights.expand(KV_HEADS, -1))
            wanted = [of[:, 8 * int(eights[0]) : 744] if len(eights) else of[:, :0] for of in seen(pair, 1, 4)]
            found = attention.taken_keys(to[0], 8 * len(eights))[..., :DIM]
            assert found.equal(wanted[0])
            order = torch.arange(DIM)
            assert to[1][:, : 8 * len(eights), 2 * order].float().equal(wanted[1])


@pytest.mark.parametrize("kind", ["retrieval", "window"])
@places
@both
def test_views_choose_what_they_would_in_memory_and_read_nothing_else(
    place: Places, bits: int, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = {"retrieval": FEW, "window": replace(FEW, scored=False)}
    monkeypatch.setattr("specexec.kv.retrieval.KINDS", {**KINDS, **few})
    with place(bits) as caches:  # type: ignore[attr-defined]
        pair, asked = Pair(*caches), list[int]()
        for _ in range(4):
            pair.commit(200)
        views = [cache.view(kind) for cache in caches]
        assert isinstance(views[0], CopiedBlocks | CopiedDense)
        layer = pair.away.backing.layer
        monkeypatch.setattr(pair.away.backing, "layer", lambda index: asked.append(index) or layer(index))
        for turn in range(12):
            pair.commit(9 if turn % 4 else 60)
            for of in range(LAYERS):
                for cache in caches:
                    cache.asked(of, torch.randn(HEADS, DIM, generator=torch.Generator().manual_seed(turn)))
            made = views[0].choice.made
            asked.clear()
            _alike(pair, *views)
            assert not asked or views[0].choice.made > made, "a choice goes through the layers, and nothing else does"
        assert views[0].choice.made == views[1].choice.made > 3  # type: ignore[attr-defined]
        assert views[0].choice.chosen.equal(views[1].choice.chosen)  # type: ignore[attr-defined]


def _alike(pair: Pair, *views: KVCache) -> None:
    """To what is lost where weights are bytes, and where rows have left the buffer since they were copied."""
    rows = visible_rows(views[0].length, [ROOT, 0, 0], 3, None)
    q, kv = torch.randn(HEADS, 3, DIM), torch.randn(2, KV_HEADS, 3, DIM)
    for layer in range(LAYERS):
        one, other = (view.attend(layer, q, *kv, rows) for view in views)
        torch.testing.assert_close(one, other, atol=0.15, rtol=0)


@places
@pytest.mark.parametrize("kind", ["int4", "full"])
def test_a_view_of_all_of_it_is_refused(place: Places, kind: str) -> None:
    with place(8) as caches, pytest.raises(WrongUsage) as caught:  # type: ignore[attr-defined]
        caches[0].view(kind)
    assert "--draft-kv retrieval" in caught.value.hint
