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
from specexec.engines.torch_cache import kept
from specexec.engines.torch_engine import TorchEngine
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


def assert_same(of: Session, drafter: Grow, prompt: list[int], options: AnswerOptions) -> None:
    ids, close = written(of, Nothing(), prompt, options)
    found, _ = written(of, drafter, prompt, options)
    assert found[:close] == ids[:close]
    assert close is None or close > 4, "it was to say more than that"


def test_it_is_what_was_asked_for() -> None:
    of = session()
    assert isinstance(of.target, TorchEngine)
    assert isinstance(of.target.cache, HierarchicalDense)
    assert isinstance(same_tier(drafting(of)).view, UpperDense)
    assert isinstance(same_tier(drafting(session("int4"))).view, DenseGathering)


@temperatures
@pytest.mark.parametrize("budget", [4, None])
def test_it_writes_what_plain_decoding_writes(budget: int | None, temperature: float, shared: Path) -> None:
    """60 tokens across a border."""
    of = session()
    prompt, options = novel(of, shared, 490), AnswerOptions(Sampling(temperature), 7, budget, 60)
    assert_same(of, drafting(of, lookup=budget is None), prompt, options)


@temperatures
@pytest.mark.parametrize(("kv", "kind"), [("int8", "retrieval"), ("int8", "window"), ("int4", "auto")])
def test_so_does_a_view_of_chosen_rows(kv: str, kind: str, temperature: float, shared: Path) -> None:
    of = session(kv)
    assert_same(of, drafting(of, kind), novel(of, shared, 600), AnswerOptions(Sampling(temperature), 3, 24, 20))


@temperatures
def test_conversations_that_go_on_and_are_edited(temperature: float, shared: Path) -> None:
    """Turns that continue, cut within a group, within the buffer, at a border, far back, and come back to the first."""
    of, options = session(), AnswerOptions(Sampling(temperature), 5, 24, 15)
    first, other = novel(of, shared, 400), novel(of, shared, 200, 400_000)
    turns = [first[:270], [*first[:300], *other[:30]], first, first[:350], first[: 2 * GROUP], [*other, *first[:60]], first]
    drafter = drafting(of)
    found = [written(of, drafter, prompt, options, number)[0] for number, prompt in enumerate(turns)]
    for number, prompt in enumerate(turns):  # each as if it were the first
        alone = of.target.over(kept(of.target.config, "int8", of.target.device))  # type: ignore[attr-defined]
        ids, close = written(replace(of, target=alone), Nothing(), prompt, options, number)
        assert found[number][:close] == ids[:close]
