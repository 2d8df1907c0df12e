"""Promise 1 on llama.cpp: with a seed the text is the same with any draft and any budget."""

import json
from functools import cache
from pathlib import Path

import pytest
import torch

from cli.build import ModelOptions, open_session
from cli.interrupt import Interrupt
from cli.session import AnswerOptions, Generation, Session
from specexec.sampling import Sampling
from tests.conftest import SHARED
from tests.gguf.conftest import F32, Q8

pytestmark = pytest.mark.usefixtures("llamacpp", "stories")
FOLDER = SHARED / "models" / "stories260k"
BUDGETS = (0, 8, 64)


@cache
def session(model: str, *drafts: str) -> Session:
    return open_session(ModelOptions(str(FOLDER / model), tuple(drafts)), Interrupt())


def answer(of: Session, prompt: str, temperature: float, budget: int, tokens: int = 60) -> Generation:
    ids = of.codec.encode_first(prompt)
    options = AnswerOptions(Sampling(temperature), 7, budget, tokens)
    made = of.begin(ids, options)
    list(of.stream(made, ids, options, 0))
    return made


def prompts(count: int) -> list[str]:
    lines = (SHARED / "prompts" / "stories_dev.jsonl").read_text().splitlines()[:count]
    return [json.loads(line)["turns"][0] for line in lines]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize(("target", "draft"), [(F32, Q8), (Q8, F32), (F32, ""), ("", Q8)], ids=str)
def test_the_text_does_not_depend_on_the_draft(target: str, draft: str, temperature: float) -> None:
    """An empty name is the folder as it was published, which torch or our kernels run."""
    of = session(target, str(FOLDER / draft), "lookup")
    for prompt in prompts(3):
        texts = {tuple(answer(of, prompt, temperature, budget).answer.ids) for budget in BUDGETS}
        assert len(texts) == 1, prompt


def test_a_draft_that_is_the_target_in_eight_bits_is_nearly_always_right() -> None:
    made = answer(session(F32, str(FOLDER / Q8)), prompts(1)[0], 0.0, 8)
    assert made.report.tokens / made.report.passes > 4


def unequal(count: int) -> list[str]:
    """The story openings whose greedy ids differ from those of plain transformers."""
    from transformers import AutoModelForCausalLM

    ours, found = session(F32, "lookup"), []
    theirs = AutoModelForCausalLM.from_pretrained(FOLDER, dtype=torch.float32)
    for prompt in prompts(count):
        ids = torch.tensor([ours.codec.encode_first(prompt)])
        wanted = theirs.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=100,
                                 temperature=None, top_p=None, pad_token_id=0, eos_token_id=sorted(ours.eos))
        made = answer(ours, prompt, 0.0, 16, 100)
        if [token for token in wanted[0, ids.shape[1] :].tolist() if token not in ours.eos] != made.answer.ids:
            found.append(prompt[:30])
    return found


def test_greedy_text_equals_transformers() -> None:
    assert unequal(8) == []


@pytest.mark.slow
def test_greedy_text_equals_transformers_on_all_openings() -> None:
    assert unequal(40) == []


def test_the_file_holds_the_published_tokenizer(stories: Path) -> None:
    from cli.codec import Codec

    assert session(F32, "none").codec.vocabulary == Codec(stories).vocabulary
