"""Promise 1 where a small draft stands on a view of its own KV cache: plain decoding's text, however bad its tiers."""

from pathlib import Path

import pytest
import torch

from cli.build import ModelOptions, open_session
from cli.drafting import standing
from cli.interrupt import Interrupt
from cli.session import AnswerOptions, Session
from specexec.budget import Fixed
from specexec.drafters.grow import Grow
from specexec.drafters.growing import Expander
from specexec.drafters.lookup import Chains, Recycled
from specexec.drafters.model import ModelExpander
from specexec.drafters.same import Same
from specexec.drafters.tier import Tier
from specexec.engines.tree_engine import TreeEngine
from specexec.kv.retrieval import KINDS, Gathering
from specexec.roles import Reader
from specexec.sampling import Sampling
from specexec.tree import DraftTree
from tests.test_long_context import SEEN, SIGHT, Stops, novel, plain, session, written

TIERS = {"draft": False, "draft, lookup": True}


@pytest.fixture(autouse=True)
def _narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Views and windows of a few dozen rows."""
    monkeypatch.setattr("specexec.kv.retrieval.KINDS", {**KINDS, **SEEN})
    monkeypatch.setattr("specexec.kv.window.Sight", lambda: SIGHT)


def drafter(of: Session, lookup: bool, quant: str | None = None, tiny: bool = False) -> Grow:
    """The bundled draft over a view of its own cache. tiny: below that the same over a window."""
    found = open_session(ModelOptions(drafts=("bundled",), quant=quant), Interrupt()).drafter
    assert isinstance(found, Grow)
    (draft,) = found.expanders
    assert isinstance(draft, ModelExpander)
    assert isinstance(draft.engine, TreeEngine)
    others: list[Expander] = [Chains(), Recycled()] if lookup else []
    if tiny:
        others.append(ModelExpander(draft.engine.forgetting(of.context), draft.vocabulary))
    return Grow(standing([draft, *others], ModelOptions(draft_kv="retrieval"), of.context), of.context)


def tiers(drafting: Grow) -> tuple[Tier, Same]:
    """(the draft, what it writes through its view)"""
    top = drafting.expanders[0]
    assert isinstance(top, Tier)
    assert top.cascade is not None
    inner = top.cascade.drafter
    assert isinstance(inner, Grow)
    below = inner.expanders[0]
    assert isinstance(below, Same)
    return top, below


def forced(drafting: Grow) -> Grow:
    """Every tier guesses, whether it pays or not."""
    for tier in tiers(drafting):
        if tier.cascade is not None:
            tier.cascade.budget = Fixed(8)
    return drafting


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("lookup", TIERS.values(), ids=TIERS)
def test_a_draft_over_a_view_of_its_own_writes_plain_decodings_text(lookup: bool, temperature: float, shared: Path) -> None:
    of = session("int8")
    prompt, options = novel(of, shared, 800), AnswerOptions(Sampling(temperature), 7, 24, 100)
    drafting = forced(drafter(of, lookup, tiny=not lookup))
    assert written(of, drafting, prompt, options) == plain(of, prompt, options)
    top, below = tiers(drafting)
    assert isinstance(below.view, Gathering)
    assert below.view.choice.made > 1, "it was to choose anew on the way"
    assert top.cascade is not None
    assert top.cascade.passes > 10
    assert top.cascade.tokens / top.cascade.passes > 1.5, "the draft was to take what its view wrote"


def test_so_does_one_that_transformers_computes(shared: Path) -> None:
    of = session(None)
    prompt, options = novel(of, shared, 700), AnswerOptions(Sampling(1.0), 7, 16, 50)
    assert written(of, forced(drafter(of, True)), prompt, options) == plain(of, prompt, options)


def test_nor_does_an_automatic_budget_change_it(shared: Path) -> None:
    of = session("int8")
    prompt, options = novel(of, shared, 700), AnswerOptions(Sampling(1.0), 3, None, 150)
    assert written(of, drafter(of, True), prompt, options) == plain(of, prompt, options)


class Negated:
    """An engine that says the opposite."""

    def __init__(self, engine: TreeEngine) -> None:
        self.engine = engine

    def __getattr__(self, name: str) -> object:
        return getattr(self.engine, name)

    def forward(self, tree: DraftTree, reader: Reader, first: int = 0) -> None:
        def read(row: int, logits: torch.Tensor) -> None:
            reader(row, -logits)

        self.engine.forward(tree, read, first)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("bad", [(0,), (1,), (0, 1)], ids=["draft", "view", "both"])
def test_bad_tiers_leave_the_text(bad: tuple[int, ...], temperature: float, shared: Path) -> None:
    """Their guesses are never right; all that they may cost is time."""
    of = session("int8")
    drafting = forced(drafter(of, True))
    for number in bad:
        tier = tiers(drafting)[number]
        tier.engine = Negated(tier.engine)  # type: ignore[assignment, arg-type]
    prompt, options = novel(of, shared, 600), AnswerOptions(Sampling(temperature), 5, 12, 60)
    assert written(of, drafting, prompt, options) == plain(of, prompt, options)


def test_turns_that_cut_the_context_leave_nothing_behind(shared: Path) -> None:
    of = session("int8")
    first = novel(of, shared, 700)
    turns = [first, first[:300], [*first[:500], *novel(of, shared, 200, 400_000)], first]
    options, drafting = AnswerOptions(Sampling(1.0), 5, 12, 30), forced(drafter(of, True))
    found = [written(of, drafting, prompt, options, number) for number, prompt in enumerate(turns)]
    assert found == [plain(of, prompt, options, number) for number, prompt in enumerate(turns)]


@pytest.mark.parametrize("after", [5, 61])
@pytest.mark.parametrize("number", [0, 1], ids=["draft", "view"])
def test_an_interrupted_tier_leaves_all_as_it_was(number: int, after: int, shared: Path) -> None:
    of = session("int8")
    prompt, options = novel(of, shared, 600), AnswerOptions(Sampling(1.0), 5, 12, 50)
    drafting = forced(drafter(of, True))
    whole, tier = plain(of, prompt, options), tiers(drafting)[number]
    before = replace_stop(tier, Stops(after))
    cut = written(of, drafting, prompt, options)
    replace_stop(tier, before)
    assert len(cut) < len(whole)
    assert cut == whole[: len(cut)]
    assert written(of, drafting, prompt, options) == whole


def replace_stop(tier: Tier, stop: object) -> object:
    """What asks whether Ctrl-C was pressed; the one before."""
    engine: object = tier.engine
    before: object = engine.stop  # type: ignore[attr-defined]
    engine.stop = stop  # type: ignore[attr-defined]
    return before
