"""A draft with a draft of its own: exact with the worst of tiers, and fewer passes of the middle one with a good tier below."""

from typing import Any

import pytest
import torch

import specexec.decode
from specexec.budget import Fixed
from specexec.drafters.cascade import Cascade
from specexec.drafters.grow import Grow
from specexec.drafters.same import DROP, SETTLED, Same
from specexec.sampling import Sampling
from specexec.tree import DraftTree, children_of
from specexec.verify import Picks, Verdict
from tests.specexec.test_decode import ToyEngine, answer_of, model_drafter, steps, table
from tests.specexec.test_verify import LEVEL, TARGET, draws, surprise

pytestmark = pytest.mark.usefixtures("one_thread")


class Tier(ToyEngine):
    """A target as far as a middle tier knows it: what stands over its view is itself."""

    settled = 0

    def over(self, view: object, source: object = None) -> "Tier":
        return self

    def settle(self) -> None:
        self.settled += 1


class View:
    """What a tier doubts."""

    doubts = 0

    def doubt(self) -> None:
        self.doubts += 1


def same(middle: torch.Tensor, below: torch.Tensor | None, tree: int = 1_000) -> Same:
    cascade = None if below is None else Cascade(model_drafter(ToyEngine(below)), Fixed(6))
    target: Any = Tier(middle, tree=tree)
    view: Any = View()
    return Same(target, view, cascade)


def tiered(middle: torch.Tensor, below: torch.Tensor | None) -> Grow:
    return Grow([same(middle, below)], 10_000)


@pytest.mark.parametrize("answers", [1, pytest.param(60, marks=pytest.mark.slow)])
def test_a_deliberately_bad_middle_tier_leaves_the_exact_distribution(answers: int) -> None:
    assert surprise(draws(lambda: tiered(-TARGET, table(3)), 50_000, answers)) > LEVEL


def resampled(tree: DraftTree, picks: Picks) -> Verdict:
    """What the released code of TriForce does: where a guess is rejected, the tier's own law writes the token instead."""
    found = specexec.verify.verify(tree, picks)
    children = children_of(tree.tokens, tree.parents)[1][found.path[-1]]
    left = [token for token in children if token != found.tokens[-1]]
    if not left:
        return found
    return Verdict(found.path, (*found.tokens[:-1], left[0]), found.margins)


def test_drawing_from_the_tier_where_it_was_rejected_is_detected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(specexec.decode, "verify", resampled)
    assert surprise(draws(lambda: tiered(-TARGET, table(3)), 60_000, 1)) < LEVEL


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("below", [None, 3, 4])
@pytest.mark.parametrize("room", [1_000, 12, 9])
def test_the_text_is_the_same(temperature: float, below: int | None, room: int) -> None:
    """Also where a tier has no room for what was guessed."""
    texts = []
    tier = same(table(3), None if below is None else table(below), room)
    for drafter in (model_drafter(ToyEngine(table(5))), Grow([tier], 10_000)):
        answer = answer_of(90)
        steps(ToyEngine(table(3)), drafter, answer, Sampling(temperature), budget=8)
        texts.append(answer.ids)
    assert texts[0] == texts[1]


def passes(below: torch.Tensor | None, temperature: float) -> tuple[int, int]:
    """(of the target, of the middle tier) for the same text."""
    tier = same(table(3), below)
    answer = answer_of(120)
    taken = steps(ToyEngine(table(3)), Grow([tier], 10_000), answer, Sampling(temperature), budget=12)
    engine: Any = tier.engine
    return len(taken), len(engine.calls)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_good_draft_of_the_draft_spares_the_middle_tier_passes(temperature: float) -> None:
    target, alone = passes(None, temperature)
    with_draft, helped = passes(table(3), temperature)
    assert helped / with_draft < 0.6 * alone / target


def test_the_target_commits_what_it_has_before_its_view_is_read() -> None:
    tier = same(table(3), table(3))
    taken = steps(ToyEngine(table(3)), Grow([tier], 10_000), answer_of(50), Sampling(0.0))
    target: Any = tier.target
    assert target.settled == len(taken)


def test_a_fall_of_acceptance_makes_the_view_look_for_other_rows() -> None:
    tier = same(table(3), None)
    for _ in range(SETTLED):
        tier._accepted(0.9)
    view: Any = tier.view
    assert view.doubts == 0
    for _ in range(40):
        tier._accepted(0.9 - 3 * DROP)
    assert view.doubts == 1


def test_a_tier_that_lacks_the_prompt_does_not_read_it_itself() -> None:
    tier = same(table(3), None)
    engine: Any = tier.engine
    engine.missing = 1_000
    steps(ToyEngine(table(3)), Grow([tier], 10_000), answer_of(10), Sampling(0.0))
    assert not engine.calls


class Waking(Fixed):
    woken = 0

    def wake(self) -> None:
        self.woken += 1


def test_each_answer_wakes_what_drafts_for_a_tier_once() -> None:
    tier, budget = same(table(3), table(3)), Waking(6)
    assert tier.cascade is not None
    tier.cascade.budget = budget
    for answers in (1, 2):
        assert len(steps(ToyEngine(table(3)), Grow([tier], 10_000), answer_of(20), number=answers)) > 1
        assert budget.woken == answers
