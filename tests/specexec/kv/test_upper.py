"""Views of chosen rows over quantised keys and values: what they see, and that plain decoding's text stays what it is."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from specexec.drafters.grow import Grow
from specexec.drafters.model import unread
from specexec.engines.kernel_engine import KernelEngine
from specexec.kernels.hierarchical import GROUP
from specexec.kv.choice import Gather
from specexec.kv.hierarchical import HierarchicalCache, UpperView
from specexec.kv.upper import UpperGathering, _later, _tiles
from specexec.sampling import Sampling
from specexec.tree import DraftTree
from tests.models import chain, read
from tests.quantised import engine
from tests.specexec.engines.test_kernel_engine import folder, text
from tests.test_hierarchical_losslessness import session
from tests.test_long_context import AnswerOptions, novel, plain, same_tier, written

pytestmark = pytest.mark.usefixtures("compiled")
FEW = Gather(rows=64, chunk=16, first=16, recent=16, stride=16)
ALL = Gather()


def made(kv: str, tokens: int) -> KernelEngine:
    target = engine(folder("llama"), "int8", 16, kv=kv)
    target.sync(text(tokens))
    target.forward(DraftTree((5,)), unread)
    target.settle()
    return target


def cache(target: KernelEngine) -> HierarchicalCache:
    assert isinstance(target.cache, HierarchicalCache)
    return target.cache


@pytest.mark.parametrize("tokens", [100, 300, 517, 640])
def test_a_view_of_all_rows_reads_what_the_upper_half_has(tokens: int) -> None:
    """But that weights are rounded by 16 rows there, and by 64 here."""
    target, found = made("int8", tokens), []
    for view in (UpperView(cache(target)), UpperGathering(cache(target), ALL)):
        draft = target.over(view)
        draft.sync(text(tokens))
        found.append(read(draft, chain(3, 5, 7)))
    assert torch.allclose(*found, atol=0.1 * float(found[0].std()))


@pytest.mark.parametrize("kv", ["int8", "int4"])
def test_it_sees_the_rows_that_were_chosen_in_one_place_each(kv: str) -> None:
    target = made(kv, 700)
    view = UpperGathering(cache(target), FEW)
    target.over(view).sync(text(700))
    target.forward(DraftTree((5,)), unread)  # somebody asks
    view._see(700)
    tail, base = view._tail, cache(target)
    told, gathered = tail.quantised, tail.gathered
    assert base.start % GROUP == 0
    assert base.start > 0
    assert told[0].groups == base.start // GROUP
    assert (told[0].bits, told[0].chosen > 0, gathered[0].position) == (4, True, base.start)
    wanted = view.choice.eights(700).flatten(2)
    tiles, later = view._held[:2]
    assert isinstance(tiles, torch.Tensor)
    assert isinstance(later, torch.Tensor)
    for layer in range(base.layers):
        for head in range(base.kv_heads):
            of = [2 * t + half for t in tiles[layer, head].tolist() if t >= 0 for half in (0, 1)]
            of += [e + base.start // 8 for e in later[layer, head].flatten().tolist() if e >= 0]
            assert of == [e for e in wanted[layer, head].tolist() if e >= 0]


@given(chosen=st.sets(st.integers(0, 30)), groups=st.integers(0, 4), fill=st.integers(0, 9))
def test_eights_become_tiles_of_groups_and_eights_of_the_buffer(chosen: set[int], groups: int, fill: int) -> None:
    eights = [2 * chunk + half for chunk in sorted(chosen) for half in (0, 1)]
    given_ = torch.tensor([[eights + [-1] * fill]], dtype=torch.int32)
    start = groups * GROUP
    tiles, later = _tiles(given_, start).flatten().tolist(), _later(given_, start).flatten().tolist()
    assert [tile for tile in tiles if tile >= 0] == [chunk for chunk in sorted(chosen) if 16 * chunk < start]
    assert [8 * eight + start for eight in later if eight >= 0] == [8 * e for e in eights if 8 * e >= start]
    assert len(later) % 8 == 0
    assert len(later) < len(eights) + 8


def test_it_is_cut_at_the_borders_of_its_base() -> None:
    target = made("int8", 640)
    view = UpperGathering(cache(target), FEW)
    assert view.truncate(600) == 600
    assert view.truncate(300) == 2 * GROUP
    assert view.truncate(10) == 0


def test_chunks_that_are_no_tiles_are_refused() -> None:
    with pytest.raises(ValueError, match="tiles"):
        UpperGathering(cache(made("int8", 10)), replace(FEW, chunk=8))


@pytest.mark.parametrize("kind", ["retrieval", "window"])
@pytest.mark.parametrize("kv", ["int8", "int4"])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_it_changes_no_text(
    temperature: float, kv: str, kind: str, shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("specexec.kv.retrieval.KINDS", {"retrieval": FEW, "window": replace(FEW, scored=False)})
    from cli.drafting import own
    from cli.models import ModelOptions

    of = session(kv)
    drafting = Grow([own(of.target, ModelOptions(draft_kv=kind), [])], of.context)
    assert isinstance(same_tier(drafting).view, UpperGathering)
    prompt = novel(of, shared, 640)
    for turn in (prompt, prompt[:300], [*prompt[:500], *prompt[:40]]):
        options = AnswerOptions(Sampling(temperature), 5, 12, 60)
        assert written(of, drafting, turn, options) == plain(of, turn, options)
