"""A fact planted deep in the context: a view that retrieves drafts what it says, a window of as many rows cannot."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from specexec.budget import Fixed
from specexec.decode import decode
from specexec.drafters.grow import Grow, Nothing
from specexec.drafters.same import Same
from specexec.engines.kernel_engine import KernelEngine
from specexec.kv.blocks import BlockCache
from specexec.kv.choice import Gather
from specexec.kv.retrieval import BlockGathering
from specexec.noise import Noise
from specexec.roles import Drafter
from specexec.sampling import Sampling
from tests import recall
from tests.kernels import need
from tests.quantised import engine
from tests.specexec.test_decode import answer_of

RETRIEVAL = Gather(rows=256, chunk=16, first=16, recent=32, stride=16)
FACT = 48  # tokens


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> KernelEngine:
    need()
    folder = recall.save(tmp_path_factory.mktemp("recall"))
    return engine(folder, "int8", 16, vocabulary=recall.VOCABULARY)


def written(target: KernelEngine, drafter: Drafter, prompt: Sequence[int], tokens: int) -> tuple[list[int], float]:
    """(ids, tokens a pass)."""
    answer = answer_of(tokens, prompt)
    noise = Noise(0, 0, len(prompt), recall.VOCABULARY, silent=True)
    passes = list(decode(target, drafter, Fixed(8), Sampling(0.0), noise, prompt, answer))
    return answer.ids, len(answer.ids) / len(passes)


def own(target: KernelEngine, of: Gather) -> Grow:
    assert isinstance(target.cache, BlockCache)
    return Grow([Same(target, BlockGathering(target.cache, of))], target.limits.context)


@pytest.mark.parametrize("length", [2_000, 6_000])
def test_what_is_recalled_is_drafted_by_retrieval_alone(target: KernelEngine, length: int) -> None:
    prompt, fact = recall.text(length, FACT)
    assert written(target, Nothing(), prompt, len(fact)) == (fact, 1.0)
    ids, retrieved = written(target, own(target, RETRIEVAL), prompt, len(fact))
    assert ids == fact
    ids, windowed = written(target, own(target, replace(RETRIEVAL, scored=False)), prompt, len(fact))
    assert ids == fact
    assert retrieved > 3
    assert windowed < 1.3
