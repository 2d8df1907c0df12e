"""Promise 1 on the torch engine over quantised keys and values: what drafts from upper nibbles writes plain decoding's text.

Up to the first position where plain decoding reports two candidates closer than the engine's rounding (fp32 weights).
"""

from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest

from cli.build import ModelOptions, open_session
from cli.drafting import own
from cli.interrupt import Interrupt
from cli.session import AnswerOptions, Session
from specexec.drafters.grow import Grow, Nothing
from specexec.drafters.lookup import Chains, Recycled
from specexec.engines.torch_engine import TorchEngine, kept
from specexec.kernels.hierarchical import GROUP
from specexec.kv.hierarchical_dense import HierarchicalDense, UpperDense
from specexec.kv.retrieval import DenseGathering
from specexec.sampling import Sampling
from tests.test_long_context import novel, same_tier

temperatures = pytest.mark.parametrize("temperature", [0.0, 1.0])


@cache
def session(kv: str = "int8") -> Session:
    return replace(open_session(ModelOptions(drafts=("none",), kv=kv), Interrupt()), eos=frozenset())


def drafting(of: Session, kind: str = "auto", lookup: bool = False) -> Grow:
    below = [Chains(), Recycled()] if lookup else []
    return Grow([own(of.target, ModelOptions(draft_kv=kind), below), *below], of.context)


def written(
    of: Session, drafter: Grow | Nothing, prompt: list[int], options: AnswerOptions, number: int = 0
) -> tuple[list[int], int | None]:
    """The ids, and where the first close call was."""
    used = replace(of, drafter=drafter)
    made = used.begin(prompt, options)
    list(used.stream(made, prompt, options, number))
    return made.answer.ids, made.report.first_close_call


def assert_same(of: Session, drafter: Grow, prompt: list[int], options: AnswerOptions, number: int = 0) -> int:
    """How many ids there are before the first close call."""
    ids, close = written(of, Nothing(), prompt, options, number)
    found, _ = written(of, drafter, prompt, options, number)
    assert found[:close] == ids[:close]
    return len(ids[:close])


def test_it_is_what_was_asked_for() -> None:
    of = session()
    assert isinstance(of.target, TorchEngine)
    assert isinstance(of.target.cache, HierarchicalDense)
    assert isinstance(same_tier(drafting(of)).view, UpperDense)
    assert isinstance(same_tier(drafting(session("int4"))).view, DenseGathering)


@temperatures
@pytest.mark.parametrize("budget", [4, 24, None])
def test_it_writes_what_plain_decoding_writes(budget: int | None, temperature: float, shared: Path) -> None:
    """150 tokens from below a border: at least one group is made on the way."""
    of = session()
    prompt, options = novel(of, shared, 500), AnswerOptions(Sampling(temperature), 7, budget, 150)
    assert sum(assert_same(of, drafting(of, lookup=lookup), prompt, options) for lookup in (False, True)) > 100


@temperatures
@pytest.mark.parametrize(("kv", "kind"), [("int8", "retrieval"), ("int8", "window"), ("int4", "auto")])
def test_so_does_a_view_of_chosen_rows(kv: str, kind: str, temperature: float, shared: Path) -> None:
    of = session(kv)
    assert_same(of, drafting(of, kind), novel(of, shared, 600), AnswerOptions(Sampling(temperature), 3, 24, 50))


@temperatures
def test_conversations_that_go_on_and_are_edited(temperature: float, shared: Path) -> None:
    """Turns that continue, cut within a group, within the buffer, at a border, far back, and come back to the first."""
    of, options = session(), AnswerOptions(Sampling(temperature), 5, 24, 40)
    first, other = novel(of, shared, 700), novel(of, shared, 200, 400_000)
    turns = [first[:400], [*first[:440], *other[:30]], first, first[:650], first[: 5 * GROUP], [*first[:200], *other],
             first[:130], [*other[:5], *first[:300]], first]
    drafter = drafting(of)
    found = [written(of, drafter, prompt, options, number)[0] for number, prompt in enumerate(turns)]
    for number, prompt in enumerate(turns):  # each as if it were the first
        alone = of.target.over(kept(of.target.model.config, "int8", of.target.device))  # type: ignore[attr-defined]
        ids, close = written(replace(of, target=alone), Nothing(), prompt, options, number)
        assert found[number][:close] == ids[:close]
