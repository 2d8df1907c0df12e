"""Promise 1 without exception: a quantised model's text is the same with any drafter, any budget, or none, to the last id."""

from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest

from cli.build import ModelOptions, open_session
from cli.interrupt import Interrupt
from cli.session import AnswerOptions, Session
from specexec.engines.kernel_engine import KernelEngine
from specexec.sampling import Sampling
from tests.kernels import need, threads
from tests.test_losslessness import EVERY, SOME, TEMPERATURES, answer, prompts


@cache
def session(draft: str, kind: str, bits: int) -> Session:
    need()
    return open_session(ModelOptions(drafts=(draft,), quant=kind, activations=bits), Interrupt())


def differences(
    prompt: str, sampling: Sampling, tokens: int, kind: str = "nf4", bits: int = 8, ways: list[tuple[str, int]] = EVERY
) -> Iterator[str]:
    """Names each draft and budget whose ids differ from plain decoding's."""
    plain = answer(session("none", kind, bits), prompt, AnswerOptions(sampling, 7, 0, tokens))
    assert plain.answer.ids
    assert plain.report.first_close_call is None
    for draft, budget in ways:
        made = answer(session(draft, kind, bits), prompt, AnswerOptions(sampling, 7, budget, tokens))
        assert made.report.first_close_call is None
        if made.answer.ids != plain.answer.ids:
            yield f"{kind} {bits} {draft} {budget} T={sampling.temperature}: {prompt[:30]!r}"


def test_a_quantised_model_runs_on_the_kernels() -> None:
    assert isinstance(session("none", "nf4", 8).target, KernelEngine)


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_the_text_does_not_depend_on_the_draft(temperature: float, shared: Path) -> None:
    for number, prompt in enumerate(prompts(shared)[::13]):
        assert list(differences(prompt, Sampling(temperature), 32, ways=SOME if number else EVERY)) == []


@pytest.mark.parametrize(("kind", "bits"), [("nf4", 16), ("int8", 8), ("int8", 16)])
def test_nor_with_other_formats(kind: str, bits: int) -> None:
    ways = [("lookup", 16), ("bundled", 16), ("bundled", 256)]
    assert list(differences("Once upon a time", Sampling(0.6), 60, kind, bits, ways)) == []


def test_nor_on_the_number_of_threads() -> None:
    ways = [("none", 0), ("lookup", 256)]
    loaded = {draft: session(draft, "nf4", 8) for draft, _ in ways}  # which chooses the threads
    options = AnswerOptions(Sampling(0.6), 7, 0, 60)
    alone = answer(loaded["none"], "Once upon a time", options)
    with threads(2):
        for draft, budget in ways:
            assert answer(loaded[draft], "Once upon a time", replace(options, budget=budget)).answer.ids == alone.answer.ids


@pytest.mark.slow
@pytest.mark.parametrize("part", range(5))
@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_nor_on_all_fifty_prompts(temperature: float, bits: int, part: int, shared: Path) -> None:
    some = prompts(shared)[part::5]
    assert [found for prompt in some for found in differences(prompt, Sampling(temperature), 100, bits=bits)] == []
