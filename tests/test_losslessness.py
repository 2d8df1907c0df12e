"""Promise 1: with a seed the text is the same with any drafter, any budget, or none (fp32)."""

import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from cli.build import ModelOptions, open_session
from cli.interrupt import Interrupt
from cli.session import AnswerOptions, Generation, Session
from specexec.sampling import Sampling

TEMPERATURES = (0.0, 0.6, 1.0)
BUDGETS = (0, 1, 16, 256)
DRAFTS = ("none", "lookup", "bundled")
EVERY = [(draft, budget) for draft in DRAFTS[1:] for budget in BUDGETS]
SOME = [("lookup", 16), ("bundled", 1), ("bundled", 256)]


@cache
def session(draft: str, model: str = "bundled") -> Session:
    return open_session(ModelOptions(model, (draft,)), Interrupt())


def answer(drafted: Session, prompt: str, options: AnswerOptions) -> Generation:
    ids = drafted.codec.encode_first(prompt)
    made = drafted.begin(ids, options)
    list(drafted.stream(made, ids, options, 0))
    return made


def differences(
    prompt: str, temperature: float, tokens: int, sampling: Sampling | None = None, ways: list[tuple[str, int]] = EVERY
) -> Iterator[str]:
    """Names each draft and budget whose ids differ from plain decoding's; what a close call explains is named so."""
    sampling = sampling or Sampling(temperature)
    plain = answer(session("none"), prompt, AnswerOptions(sampling, 7, 0, tokens))
    for draft, budget in ways:
        made = answer(session(draft), prompt, AnswerOptions(sampling, 7, budget, tokens))
        if made.answer.ids != plain.answer.ids:
            yield f"{draft} {budget} T={temperature} close call at {plain.report.first_close_call}: {prompt[:30]!r}"


def prompts(shared: Path) -> list[str]:
    files = {"stories_dev.jsonl": 40, "gsm8k_dev.jsonl": 10}
    return [json.loads(line)["turns"][0] for name, count in files.items()
            for line in (shared / "prompts" / name).read_text().splitlines()[:count]]


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_the_text_does_not_depend_on_the_draft(temperature: float) -> None:
    assert list(differences("Once upon a time", temperature, 120)) == []


@pytest.mark.parametrize("temperature", [1.0, *(pytest.param(other, marks=pytest.mark.slow) for other in (0.0, 0.6))])
def test_nor_on_prompts_of_other_kinds(temperature: float, shared: Path) -> None:
    assert [found for prompt in prompts(shared)[::7] for found in differences(prompt, temperature, 40, ways=SOME)] == []


def test_nor_with_filters_and_penalties() -> None:
    sampling = Sampling(0.9, top_k=40, top_p=0.9, min_p=0.02, repeat_penalty=1.1, presence_penalty=0.2, frequency_penalty=0.1)
    assert list(differences("Once upon a time", 0.9, 80, sampling)) == []


@pytest.mark.slow
@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_nor_on_all_fifty_prompts(temperature: float, shared: Path) -> None:
    assert [found for prompt in prompts(shared) for found in differences(prompt, temperature, 100)] == []


def test_greedy_text_equals_transformers_generate(shared: Path) -> None:
    assert unequal_to_generate(shared, 8) == []


@pytest.mark.slow
def test_greedy_text_equals_transformers_generate_on_all_openings(shared: Path) -> None:
    assert unequal_to_generate(shared, 40) == []


def unequal_to_generate(shared: Path, count: int) -> list[str]:
    """The story openings whose greedy ids differ from those of plain transformers."""
    import torch
    from transformers import AutoModelForCausalLM

    found = []
    for model in ("bundled", str(shared / "models" / "stories260k")):
        ours = session("lookup", model)
        folder = str(Path(__file__).parents[1] / "specexec" / "bundled" / "target") if model == "bundled" else model
        theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        for prompt in prompts(shared)[:count]:
            made = answer(ours, prompt, AnswerOptions(Sampling(0.0), 0, 16, 100))
            ids = torch.tensor([ours.codec.encode_first(prompt)])
            wanted = theirs.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=100,
                                     temperature=None, top_p=None, pad_token_id=0)
            if [token for token in wanted[0, ids.shape[1]:].tolist() if token not in ours.eos] != made.answer.ids:
                found.append(f"{model}: {prompt[:30]!r}")
    return found
