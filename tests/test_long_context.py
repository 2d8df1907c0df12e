"""Promise 1 where drafts see a part of the context: whatever the tiers, budgets and rebuilds, plain decoding's text."""

import gzip
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest

from cli.build import ModelOptions, open_session
from cli.drafting import own
from cli.interrupt import Interrupt
from cli.session import AnswerOptions, Session
from specexec.budget import Fixed
from specexec.drafters.grow import Grow, Nothing
from specexec.drafters.growing import Expander
from specexec.drafters.lookup import Chains, Recycled
from specexec.drafters.model import ModelExpander, unread
from specexec.drafters.same import Same
from specexec.kv.choice import Choice, Gather
from specexec.kv.retrieval import KINDS, Gathering
from specexec.kv.window import Sight
from specexec.sampling import Sampling
from specexec.tree import DraftTree
from tests.kernels import need

FEW = Gather(rows=64, chunk=8, first=16, recent=16, stride=16)
SEEN = {"retrieval": FEW, "window": replace(FEW, scored=False)}
SIGHT = Sight(sinks=16, recent=32, slack=16)
TIERS = {
    "self": ("self",), "self, lookup": ("self", "lookup"), "self, draft": ("self", "bundled"),
    "self, draft, lookup": ("self", "bundled", "lookup"), "draft": ("bundled",),
}


@cache
def session(quant: str | None) -> Session:
    """The bundled model, which decodes plainly."""
    need()
    return replace(open_session(ModelOptions(drafts=("none",), quant=quant), Interrupt()), eos=frozenset())


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Views and windows of a few dozen rows."""
    monkeypatch.setattr("specexec.kv.retrieval.KINDS", {**KINDS, **SEEN})
    monkeypatch.setattr("specexec.kv.window.Sight", lambda: SIGHT)


def drafter(target: Session, names: Sequence[str], kind: str) -> Grow:
    """What these names draft with, each small model over a window."""
    options = ModelOptions(drafts=tuple(names), draft_kv=kind)
    models = [one for one in drafts() if "bundled" in names]
    small = [ModelExpander(one.engine.forgetting(target.context), one.vocabulary) for one in models]  # type: ignore[attr-defined]
    others: list[Expander] = [*small, *([Chains(), Recycled()] if "lookup" in names else [])]
    first = [own(target.target, options, others)] if "self" in names else []
    return Grow([*first, *others], target.context)


@cache
def drafts() -> list[ModelExpander]:
    found = open_session(ModelOptions(drafts=("bundled",)), Interrupt()).drafter
    assert isinstance(found, Grow)
    return [one for one in found.expanders if isinstance(one, ModelExpander)]


def novel(of: Session, shared: Path, tokens: int, start: int = 100_000) -> list[int]:
    text = gzip.decompress((shared / "text" / "long_novel.txt.gz").read_bytes()).decode()
    return of.codec.encode_first(text[start : start + 8 * tokens])[:tokens]


def written(of: Session, drafting: Grow | Nothing, prompt: list[int], options: AnswerOptions, number: int = 0) -> list[int]:
    used = replace(of, drafter=drafting)
    made = used.begin(prompt, options)
    list(used.stream(made, prompt, options, number))
    return made.answer.ids


def plain(of: Session, prompt: list[int], options: AnswerOptions, number: int = 0) -> list[int]:
    return written(of, Nothing(), prompt, options, number)


def same_tier(drafting: Grow) -> Same:
    found = drafting.expanders[0]
    assert isinstance(found, Same)
    return found


def choice(drafting: Grow) -> Choice:
    view = same_tier(drafting).view
    assert isinstance(view, Gathering)
    return view.choice


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize("quant", ["int8", None])
@pytest.mark.parametrize("tiers", list(TIERS))
def test_every_combination_of_tiers_writes_plain_decodings_text(tiers: str, quant: str | None, shared: Path) -> None:
    of = session(quant)
    prompt = novel(of, shared, 800)
    for temperature in (0.0, 1.0) if quant else (1.0,):
        for kind in SEEN if "self" in TIERS[tiers] else ("window",):
            options = AnswerOptions(Sampling(temperature), 7, 12, 100 if quant else 60)
            drafting = drafter(of, TIERS[tiers], kind)
            assert written(of, drafting, prompt, options) == plain(of, prompt, options)
            if "self" in TIERS[tiers]:
                assert choice(drafting).made > 1, "it was to choose anew on the way"


@pytest.mark.usefixtures("narrow")
def test_nor_do_automatic_budgets_change_it(shared: Path) -> None:
    of = session("int8")
    prompt, options = novel(of, shared, 700), AnswerOptions(Sampling(1.0), 3, None, 200)
    assert written(of, drafter(of, TIERS["self, draft, lookup"], "retrieval"), prompt, options) == plain(of, prompt, options)


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize("tiers", ["self", "self, draft, lookup"])
def test_turns_that_cut_the_context_leave_nothing_behind(tiers: str, shared: Path) -> None:
    """Answers to a long text, to a shorter one, to another end of the first: each as if it were the only one."""
    of = session("int8")
    first = novel(of, shared, 700)
    turns = [first, first[:300], [*first[:500], *novel(of, shared, 200, 400_000)], first]
    options = AnswerOptions(Sampling(1.0), 5, 12, 60)
    drafting = drafter(of, TIERS[tiers], "retrieval")
    found = [written(of, drafting, prompt, options, number) for number, prompt in enumerate(turns)]
    assert found == [plain(of, prompt, options, number) for number, prompt in enumerate(turns)]


@pytest.mark.usefixtures("narrow")
def test_the_cascade_drafts_and_its_tiers_take_what_the_tier_below_wrote(shared: Path) -> None:
    of = session("int8")
    drafting = drafter(of, TIERS["self, draft"], "retrieval")
    cascade = same_tier(drafting).cascade
    assert cascade is not None
    cascade.budget = Fixed(8)  # whether it pays or not
    prompt, options = novel(of, shared, 700), AnswerOptions(Sampling(0.0), 5, 12, 100)
    assert written(of, drafting, prompt, options) == plain(of, prompt, options)
    assert cascade.passes > 10
    assert cascade.tokens / cascade.passes > 1.3


@pytest.mark.parametrize("quant", ["int8", None])
def test_a_window_reads_no_more_of_a_prompt_than_it_keeps(quant: str | None, shared: Path) -> None:
    of = open_session(ModelOptions(drafts=("none",), quant=quant), Interrupt())
    windowed = of.target.forgetting(100_000)
    prompt = novel(of, shared, 3_000)
    windowed.sync(prompt[:-1])
    windowed.forward(DraftTree((prompt[-1],)), unread)
    assert windowed.passes <= 4
    assert windowed.cache.length + len(windowed.cache.branches) == len(prompt)


class Stops:
    """Presses Ctrl-C in some pass of a tier below the target, once."""

    def __init__(self, after: int) -> None:
        self.left = after

    def __call__(self) -> bool:
        self.left -= 1
        return self.left == 0


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize("after", [3, 40, 200, 333])
def test_an_interrupted_tier_leaves_all_as_it_was(after: int, shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    of = session("int8")
    prompt, options = novel(of, shared, 600), AnswerOptions(Sampling(1.0), 5, 12, 60)
    drafting = drafter(of, TIERS["self, draft"], "retrieval")
    with monkeypatch.context() as patch:
        patch.setattr(same_tier(drafting).engine, "stop", Stops(after))
        whole = plain(of, prompt, options)
        cut = written(of, drafting, prompt, options)
    assert cut == whole[: len(cut)]
    assert written(of, drafting, prompt, options) == whole


