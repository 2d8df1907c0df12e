"""The pair that ships with the package."""

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from cli.build import ModelOptions, open_session
from cli.interrupt import Interrupt
from cli.session import AnswerOptions
from specexec.bundled import corpus
from specexec.bundled.fit import nats_per_token
from specexec.sampling import Sampling

BUNDLED = Path(corpus.__file__).parent
LARGEST = {"target": 5_500_000, "draft": 800_000}


@pytest.mark.parametrize("role", LARGEST)
def test_plain_transformers_loads_it(role: str) -> None:
    model = AutoModelForCausalLM.from_pretrained(BUNDLED / role)
    assert model.num_parameters() <= LARGEST[role]
    assert model.config.max_position_embeddings >= 1024
    assert model.dtype == torch.bfloat16


def test_its_tokenizer_gives_every_text_back() -> None:
    tokenizer = AutoTokenizer.from_pretrained(BUNDLED / "target")
    for text in ("Once upon a time", "  two  spaces\n\n", "naïve café, 日本語, 🙂", "\t"):
        assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == text


def test_the_target_knows_stories(shared: Path) -> None:
    stories = corpus.read_stories(shared / "text" / "tinystories_5k.jsonl.gz")
    tokenizer = AutoTokenizer.from_pretrained(BUNDLED / "target")
    ids = [tokenizer.encode(text, add_special_tokens=False) for text in stories["dev"][:30]]
    model = AutoModelForCausalLM.from_pretrained(BUNDLED / "target", dtype=torch.float32)
    assert nats_per_token(model, ids) < 2.05


def tokens_a_pass(temperature: float, openings: list[str]) -> float:
    session = open_session(ModelOptions(drafts=("bundled",)), Interrupt())
    options = AnswerOptions(Sampling(temperature), 7, 64, 120)
    passes = tokens = 0
    for number, opening in enumerate(openings):
        prompt = session.codec.encode_first(opening)
        made = session.begin(prompt, options)
        list(session.stream(made, prompt, options, number))
        passes, tokens = passes + made.report.passes, tokens + made.report.tokens
    return tokens / passes


@pytest.mark.xfail(strict=True, reason="not reached: 0.7 of the tokens a pass (BENCHMARKS.md)")
def test_sampling_costs_little_acceptance(shared: Path) -> None:
    """Shared noise: at T = 1 a pass brings at least 0.8 of what it brings at T = 0 (64 nodes)."""
    lines = (shared / "prompts" / "stories_dev.jsonl").read_text().splitlines()[:12]
    openings = [json.loads(line)["turns"][0] for line in lines]
    greedy, sampled = (tokens_a_pass(temperature, openings) for temperature in (0.0, 1.0))
    assert greedy > 3
    assert sampled >= 0.8 * greedy
