"""The foreign rules are exact: a comparison with rules that write another distribution would say nothing."""

from collections import Counter
from collections.abc import Sequence

import pytest
import torch
from scipy.stats import chisquare  # type: ignore[import-untyped]

from specexec.roles import Limits, Reader
from specexec.tree import DraftTree
from specexec.vocabulary import Vocabulary
from tests.benchmarks import without_replacement
from tests.benchmarks.chain import Chain
from tests.benchmarks.likeliest import Likeliest
from tests.benchmarks.pair import Pair
from tests.benchmarks.rule import Rule
from tests.benchmarks.without_replacement import WithoutReplacement

TOKENS, LENGTH, DRAWS, LEVEL = 4, 3, 2000, 1e-4
RARE = 5  # expected counts below this are taken together


class Toy:
    """Implements Engine: a law for every position and last token."""

    def __init__(self, logits: torch.Tensor) -> None:
        self.logits = logits  # [positions, V, V]
        self._start = 0

    @property
    def limits(self) -> Limits:
        return Limits(len(self.logits), 2048, TOKENS)

    def sync(self, tokens: Sequence[int]) -> None:
        self._start = len(tokens)

    def forward(self, tree: DraftTree, reader: Reader, first: int = 0) -> None:
        at = [(self._start + depth, token) for depth, token in zip(tree.depth, tree.tokens, strict=True)]
        reader(first, torch.stack([self.logits[place] for place in at[first:]]))


def toys(noise: float) -> Pair:
    random = torch.Generator().manual_seed(1)
    target = 1.5 * torch.randn(12, TOKENS, TOKENS, generator=random)
    draft = target + noise * torch.randn(target.shape, generator=random)
    return Pair(Toy(target), Toy(draft), Vocabulary(None), frozenset())


def expected(pair: Pair) -> torch.Tensor:
    """The joint law [V] * LENGTH of the first tokens after token 0."""
    assert isinstance(pair.target, Toy)
    laws = pair.target.logits.double().softmax(-1)
    joint = laws[0, 0]
    for position in range(1, LENGTH):
        joint = joint[..., None] * laws[position]
    return joint.flatten()


def p_value(rule: Rule, pair: Pair) -> float:
    """Of the chi-square test of what the rule writes against `expected`."""
    rule.begin([0], 0)
    found: Counter[int] = Counter()
    for _ in range(DRAWS):
        context = [0]
        while len(context) <= LENGTH:
            context += rule.advance(context)
        place = 0
        for token in context[1 : LENGTH + 1]:
            place = place * TOKENS + token
        found[place] += 1
    counts = torch.tensor([found[i] for i in range(TOKENS**LENGTH)]).double()
    law = DRAWS * expected(pair)
    rare = law < RARE
    pooled = [torch.cat((x[~rare], x[rare].sum()[None])).numpy() for x in (counts, law)]
    return float(chisquare(*pooled).pvalue)


@pytest.mark.parametrize("kind", [Likeliest, WithoutReplacement, Chain])
@pytest.mark.parametrize("noise", [0.5, 2.0])
def test_writes_the_targets_distribution(kind: type[Rule], noise: float) -> None:
    pair = toys(noise)
    assert p_value(kind(pair, 6, 1.0, seed=3), pair) > LEVEL


def test_notices_a_wrong_residual(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(without_replacement, "residual", lambda p, q: p)
    pair = toys(2.0)
    assert p_value(WithoutReplacement(pair, 6, 1.0, seed=3), pair) < LEVEL


def test_one_node_without_replacement_accepts_like_a_chain() -> None:
    pair = toys(1.0)
    counts = []
    for kind in (WithoutReplacement, Chain):
        rule = kind(pair, 1, 1.0, seed=5)
        rule.begin([0], 0)
        counts.append(sum(len(rule.advance([0])) for _ in range(DRAWS)))
    assert abs(counts[0] - counts[1]) < 6 * (DRAWS / 4 * 2) ** 0.5


def test_siblings_cover_a_draft_that_is_the_target() -> None:
    """Where draft and target agree the first sibling is always accepted."""
    pair = toys(0.0)
    rule = WithoutReplacement(pair, 3, 1.0, seed=0)
    rule.begin([0], 0)
    assert min(len(rule.advance([0])) for _ in range(100)) >= 2
