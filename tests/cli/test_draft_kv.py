"""--draft self and --draft-kv: the same text, and two lines for what cannot be."""

import json
from pathlib import Path

import pytest

from cli.build import open_session
from cli.find import find
from cli.interrupt import Interrupt
from cli.ledger import resident_weights, sizes, stands, view_bytes
from cli.models import ModelOptions, opened
from offload.footprint import footprint
from offload.store import Store
from specexec.drafters.grow import Grow
from specexec.drafters.growing import Expander
from specexec.drafters.lookup import Chains, Recycled
from specexec.drafters.model import ModelExpander, unread
from specexec.drafters.same import Same
from specexec.drafters.tier import Tier
from specexec.engines.tree_engine import TreeEngine
from specexec.kv.retrieval import Gathering
from specexec.kv.window import Sliding
from specexec.tree import DraftTree
from tests.cli.conftest import Specexec, least
from tests.cli.test_errors import assert_refused
from tests.kernels import need

BUDGET = ("--budget", "8")  # an automatic one may find that a model this small is not worth drafting for
ASKED = ("--seed", "3", "--temperature", "1", "-n", "40", "--json", "-q", "Once upon a time")
WAYS = (("self",), ("self", "lookup"), ("self", "bundled", "lookup"))


@pytest.fixture(scope="module", autouse=True)
def _compiled() -> None:
    need()


def drafter(**options: object) -> Grow:
    found = open_session(ModelOptions(quant="int8", **options), Interrupt()).drafter  # type: ignore[arg-type]
    assert isinstance(found, Grow)
    return found


@pytest.mark.parametrize("quant", [(), ("--quant", "int8")])
def test_a_model_that_drafts_for_itself_writes_its_own_text(specexec: Specexec, quant: tuple[str, ...]) -> None:
    texts = set()
    for drafts in (("none",), *WAYS):
        for kind in ("auto", "window") if "self" in drafts else ("auto",):
            named = [part for name in drafts for part in ("--draft", name)]
            code, out, err = specexec("run", *named, *(BUDGET if "self" in drafts else ()), "--draft-kv", kind, *quant, *ASKED)
            assert (code, err) == (0, "")
            found = json.loads(out)
            texts.add(found["text"])
            assert "self" not in drafts or found["tokens_per_pass"] > 1.5
    assert len(texts) == 1


def test_each_kind_is_what_it_says() -> None:
    own = drafter(drafts=("self", "bundled", "lookup")).expanders[0]
    assert isinstance(own, Same)
    assert isinstance(own.view, Gathering)
    assert own.view.choice.of.scored
    assert own.cascade is not None
    below = own.cascade.drafter
    assert isinstance(below, Grow)
    tiny = below.expanders[0]
    assert isinstance(tiny, ModelExpander)
    assert isinstance(tiny.engine, TreeEngine)
    assert isinstance(tiny.engine.cache, Sliding)
    windowed = drafter(drafts=("self",), draft_kv="window").expanders[0]
    assert isinstance(windowed, Same)
    assert isinstance(windowed.view, Gathering)
    assert not windowed.view.choice.of.scored
    assert windowed.cascade is None


def test_a_draft_of_a_long_context_drafts_for_itself(specexec: Specexec) -> None:
    """And so does one that was asked to; either writes the same."""
    asked = drafter(drafts=("bundled", "lookup"), draft_kv="retrieval")
    tier, *others = asked.expanders
    (own,) = below(asked)
    assert isinstance(own, Same)
    assert isinstance(tier, Tier)
    assert own.target is tier.engine
    assert len(others) == 2
    assert own.cascade is not None, "lookup drafts below it"
    shorter = below(drafter(drafts=("bundled", "lookup")))
    assert not any(isinstance(one, Same) for one in shorter), "a view would see all of this context"
    ways = ((), ("--draft-kv", "retrieval"))
    texts = [json.loads(specexec("run", "--quant", "int8", *way, *ASKED).out)["text"] for way in ways]
    assert texts[0] == texts[1]


def below(of: Grow) -> list[Expander]:
    """What drafts for its first expander."""
    tier = of.expanders[0]
    assert isinstance(tier, Tier)
    assert tier.cascade is not None
    assert isinstance(tier.cascade.drafter, Grow)
    return list(tier.cascade.drafter.expanders)


def test_what_looks_texts_up_drafts_for_a_draft_as_well() -> None:
    """With a memory of its own: of what the draft would write."""
    of = drafter(drafts=("bundled", "lookup"))
    assert [type(one) for one in below(of)] == [Chains, Recycled] == [type(one) for one in of.expanders[1:]]
    assert not {*below(of)} & {*of.expanders}
    alone = drafter(drafts=("bundled",)).expanders[0]
    assert isinstance(alone, Tier)
    assert alone.cascade is None


@pytest.mark.parametrize(("kind", "context", "expected"), [
    ("auto", 8192, False), ("auto", 16384, True), ("retrieval", 1024, True), ("full", 65536, False), ("window", 65536, False)])
def test_which_contexts_are_long(kind: str, context: int, expected: bool) -> None:
    assert stands(kind, context) == expected


def test_a_draft_that_has_not_learnt_so_much_has_no_view_of_it(specexec: Specexec, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cli.build.sighted", lambda draft, *rest: draft.forgetting(2_000))
    code, out, err = specexec("run", "--draft-kv", "retrieval", "Once")
    assert (code, out) == (2, "")
    assert "no draft here has a view" in err
    assert "--draft-kv auto" in err


@pytest.mark.parametrize(("kind", "window"), [("auto", False), ("full", False), ("window", True)])
def test_a_small_draft_sees_all_it_has_learnt_to_see(kind: str, window: bool) -> None:
    one = drafter(drafts=("bundled",), draft_kv=kind).expanders[0]
    assert isinstance(one, ModelExpander)
    assert isinstance(one.engine, TreeEngine)
    assert isinstance(one.engine.cache, Sliding) == window


@pytest.mark.parametrize(("given", "said", "hint"), [
    (("--draft", "self", "--draft-kv", "full"), "is the model itself", "--draft-kv retrieval"),
    (("--draft", "lookup", "--draft-kv", "retrieval"), "no model drafts", "--draft self --draft-kv retrieval"),
    (("--draft", "self", "--draft", "none"), "contradicts", "one of the two"),
    (("--draft-kv", "int5"), "int5", ""),
])
def test_what_cannot_be_is_refused(specexec: Specexec, given: tuple[str, ...], said: str, hint: str) -> None:
    assert_refused(specexec("run", *given, "Once"), said, hint)


def test_a_model_that_streams_does_not_draft_for_itself(specexec: Specexec, bundled_store: Path) -> None:
    own = 2**23  # what it would take besides
    given = ("--draft", "self", "--ram", str(least(bundled_store) + own), "Once")
    code, _, err = specexec("run", "-m", str(bundled_store), *given)
    assert code == 2
    assert "streams" in err
    assert "--draft NAME --draft-kv retrieval" in err


def test_one_that_does_not_does(specexec: Specexec, bundled_store: Path) -> None:
    ways = (("none",), ("self", *BUDGET))
    answers = [specexec("run", "-m", str(bundled_store), "--draft", *way, *ASKED) for way in ways]
    assert [code for code, _, _ in answers] == [0, 0]
    assert json.loads(answers[0][1])["text"] == json.loads(answers[1][1])["text"]
    assert json.loads(answers[1][1])["tokens_per_pass"] > 1.5


def test_the_ledger_counts_it(bundled_store: Path) -> None:
    """What a view and its engine come to hold is no more than what was planned."""
    session = open_session(ModelOptions(str(bundled_store), ("self",)), Interrupt())
    assert isinstance(session.drafter, Grow)
    own = session.drafter.expanders[0]
    assert isinstance(own, Same)
    assert isinstance(own.view, Gathering)
    context = list(range(3, 1003))
    session.target.sync(context)
    session.target.forward(DraftTree((5,)), unread)
    session.target.settle()
    own.engine.sync(context)
    own.engine.forward(DraftTree((5,)), unread)
    store = Store(bundled_store)
    assert 0 < own.view.nbytes < view_bytes(sizes(store), session.context, ModelOptions().tree)


def test_a_context_of_a_folder_that_memory_cannot_hold_is_refused(specexec: Specexec, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before anything is read, by the longest one that fits."""
    model = opened(find("bundled", "target"))
    of, weights = footprint(model.config, "bf16"), resident_weights(model, ModelOptions())
    monkeypatch.setattr("cli.engines.free_memory", lambda: weights + 600 * of.kv_token)
    given = ("run", "--draft", "none", *ASKED)
    code, out, err = specexec(*given, "--ctx-size", "1024")
    assert (code, out) == (3, "")
    assert "a context of 1,024" in err
    assert "Try: --ctx-size 512, or specexec convert " in err
    assert specexec(*given, "--ctx-size", "512").code == 0
