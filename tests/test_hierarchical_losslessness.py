"""Promise 1 over quantised keys and values: a model that drafts from its own upper nibbles writes what it writes alone."""

from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cli.build import ModelOptions, open_session
from cli.drafting import own
from cli.interrupt import Interrupt
from cli.session import AnswerOptions, Session
from specexec.drafters.grow import Grow
from specexec.drafters.lookup import Chains, Recycled
from specexec.drafters.model import unread
from specexec.kernels.hierarchical import GROUP
from specexec.kv.hierarchical import HierarchicalCache, UpperView
from specexec.sampling import Sampling
from specexec.tree import ROOT, DraftTree
from tests.kernels import need
from tests.test_long_context import Stops, novel, plain, same_tier, written

BUDGETS = (4, 24, None)


@cache
def session(kv: str = "int8") -> Session:
    need()
    options = ModelOptions(drafts=("none",), quant="int8", kv=kv)
    return replace(open_session(options, Interrupt()), eos=frozenset())


def quantspec(of: Session, lookup: bool = False) -> Grow:
    below = [Chains(), Recycled()] if lookup else []
    drafting = Grow([own(of.target, ModelOptions(), below), *below], of.context)
    assert isinstance(same_tier(drafting).view, UpperView)
    return drafting


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("budget", BUDGETS)
def test_it_writes_what_plain_decoding_writes(budget: int | None, temperature: float, shared: Path) -> None:
    """250 tokens from below a border: at least two groups are made on the way."""
    of = session()
    prompt, options = novel(of, shared, 500), AnswerOptions(Sampling(temperature), 7, budget, 250)
    for lookup in (False, True):
        assert written(of, quantspec(of, lookup), prompt, options) == plain(of, prompt, options)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("kv", ["int8", "int4"])
def test_so_does_any_other_draft(kv: str, temperature: float, shared: Path) -> None:
    of = session(kv)
    prompt, options = novel(of, shared, 300), AnswerOptions(Sampling(temperature), 3, 24, 150)
    assert written(of, Grow([Chains(), Recycled()], of.context), prompt, options) == plain(of, prompt, options)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_conversations_that_go_on_and_are_edited(temperature: float, shared: Path) -> None:
    """Turns that continue, cut within a group, within the buffer, at a border, far back, and come back to the first."""
    of, options = session(), AnswerOptions(Sampling(temperature), 5, 24, 40)
    first, other = novel(of, shared, 700), novel(of, shared, 200, 400_000)
    turns = [first[:400], [*first[:440], *other[:30]], first, first[:690], first[:650], first[: 5 * GROUP],
             [*first[:200], *other], first[:130], [*other[:5], *first[:300]], first]
    drafting = quantspec(of)
    found = [written(of, drafting, prompt, options, number) for number, prompt in enumerate(turns)]
    fresh = replace(of, target=of.target.over(empty(of)))
    assert found == [plain(fresh, prompt, options, number) for number, prompt in enumerate(turns)]
    for number in (3, 6):  # as if each were the first
        assert found[number] == plain(replace(of, target=of.target.over(empty(of))), turns[number], options, number)


def empty(of: Session) -> HierarchicalCache:
    held = of.target.cache
    assert isinstance(held, HierarchicalCache)
    return HierarchicalCache(held.layers, held.kv_heads, held.head_dim, held.bits)


def state(cache: HierarchicalCache) -> Iterator[torch.Tensor]:
    """All that a later query can read."""
    for groups, (keys, values) in zip(cache.groups, cache.buffers(), strict=True):
        for part in (groups.upper, groups.lower, groups.scales):
            yield part[:, : cache.made].view(torch.uint8)  # type: ignore[index]
        seen = torch.arange(cache.made * GROUP - cache.start, cache.held)
        yield keys[:, seen // 16, :, seen % 16].view(torch.uint8)
        yield values[:, seen].view(torch.uint8)


@settings(max_examples=12, deadline=None)
@given(cuts=st.lists(st.integers(0, 620), min_size=1, max_size=4), end=st.integers(300, 620),
       step=st.sampled_from([37, 200, 2048]))
def test_truncated_and_replayed_it_is_the_same_to_the_last_bit(cuts: list[int], end: int, step: int) -> None:
    of = session()
    tokens = [(7 * i * i + i // 3) % 2000 for i in range(620)]
    played, straight = (of.target.over(empty(of)) for _ in range(2))
    for length in [620, *cuts, end]:
        for upto in [*range(step, length, step), length]:
            read(played, tokens[:upto])
    read(straight, tokens[:end])
    assert isinstance(played.cache, HierarchicalCache)
    assert isinstance(straight.cache, HierarchicalCache)
    assert played.cache.length == straight.cache.length == end
    assert all(torch.equal(a, b) for a, b in zip(state(played.cache), state(straight.cache), strict=True))


def read(target: object, tokens: list[int]) -> None:
    target.sync(tokens)  # type: ignore[attr-defined]
    target.forward(DraftTree((5, 6), (ROOT, 0), (0.0, 0.0), ("test",) * 2), unread)  # type: ignore[attr-defined]
    target.settle()  # type: ignore[attr-defined]


@pytest.mark.parametrize("after", [3, 40, 200])
def test_an_interrupted_draft_leaves_all_as_it_was(after: int, shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    of = session()
    prompt, options = novel(of, shared, 370), AnswerOptions(Sampling(1.0), 5, 12, 60)
    drafting = quantspec(of)
    whole = plain(of, prompt, options)
    with monkeypatch.context() as patch:
        patch.setattr(same_tier(drafting).engine, "stop", Stops(after))
        cut = written(of, drafting, prompt, options)
    assert cut == whole[: len(cut)]
    assert written(of, drafting, prompt, options) == whole


def test_the_draft_reads_a_quarter_and_keeps_nothing_of_its_own(shared: Path) -> None:
    of = session()
    drafting = quantspec(of)
    prompt = novel(of, shared, 640)
    written(of, drafting, prompt, AnswerOptions(Sampling(0.0), 5, 8, 20))
    view = same_tier(drafting).view
    assert isinstance(view, UpperView)
    assert view.base is of.target.cache
    assert all(told.bits == 4 and not told.follows for told in view._fresh().quantised)
    assert view._fresh().quantised[0].groups == view.base.start // GROUP == 4
    assert view.truncate(300) == 2 * GROUP
    assert view.truncate(10) == 0
