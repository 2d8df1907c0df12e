"""Every rule is exact: a comparison with rules that write another distribution would say nothing."""

from collections import Counter
from collections.abc import Sequence

import pytest
import torch

from tests.benchmarks.lab import chain, drawn
from tests.benchmarks.lab.chain import Chain
from tests.benchmarks.lab.chains import Chains
from tests.benchmarks.lab.dyspec import DySpec
from tests.benchmarks.lab.ground import Ground
from tests.benchmarks.lab.measure import RULES
from tests.benchmarks.lab.ours import Ours
from tests.benchmarks.lab.rule import Rule
from tests.benchmarks.lab.sequoia import Sequoia
from tests.benchmarks.lab.toy import TOKENS, laws, toys
from tests.surprise import chi_square

LENGTH, DRAWS, LEVEL = 3, 500, 1e-4
RARE = 5  # expected counts below this are taken together
REJECTING: list[type[Rule]] = [Chain, Chains, DySpec, Sequoia]


def expected(ground: Ground) -> torch.Tensor:
    """The joint law [V] * LENGTH of the first tokens after token 0."""
    each = laws(ground.pair)
    joint = each[0, 0]
    for position in range(1, LENGTH):
        joint = joint[..., None] * each[position]
    return joint.flatten()


def taught(kind: type[Rule], ground: Ground, budget: int) -> Rule:
    rule = kind(ground, budget)
    rule.teach([[0, 1, 2, 3, 0, 1], [0, 2, 1, 3, 1, 1]])
    return rule


def p_value(rule: Rule, ground: Ground, draws: int = DRAWS) -> float:
    """Of the chi-square test of what the rule writes against `expected`."""
    found: Counter[int] = Counter()
    for number in range(draws):
        ground.begin([0], number)
        context = [0]
        while len(context) <= LENGTH:
            context += rule.advance(context)
        place = 0
        for token in context[1 : LENGTH + 1]:
            place = place * TOKENS + token
        found[place] += 1
    counts = torch.tensor([found[i] for i in range(TOKENS**LENGTH)]).double()
    law = draws * expected(ground)
    rare = law < RARE
    pooled = [torch.cat((x[~rare], x[rare].sum()[None])).numpy() for x in (counts, law)]
    return chi_square(*pooled)


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("noise", [0.5, 2.0])
@pytest.mark.parametrize("draws", [DRAWS, pytest.param(5_000, marks=pytest.mark.slow)])
def test_writes_the_targets_distribution(name: str, noise: float, draws: int) -> None:
    ground = Ground(toys(noise), 1.0, seed=3)
    assert p_value(taught(RULES[name], ground, 6), ground, draws) > LEVEL


@pytest.mark.parametrize("kind", REJECTING)
def test_notices_a_wrong_residual(kind: type[Rule], monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (drawn, chain):
        monkeypatch.setattr(module, "residual", lambda p, q: p)
    ground = Ground(toys(2.0), 1.0, seed=3)
    assert p_value(taught(kind, ground, 6), ground) < LEVEL


def written(rule: Rule, ground: Ground, prompt: Sequence[int]) -> list[int]:
    ground.begin(prompt, 0)
    context = list(prompt)
    while len(context) < 8:
        context += rule.advance(context)
    return context[:8]


@pytest.mark.parametrize("name", RULES)
def test_greedily_writes_the_targets_favourites(name: str) -> None:
    ground = Ground(toys(2.0), 0.0)
    favourites = [0]
    for position in range(7):
        favourites.append(int(laws(ground.pair)[position, favourites[-1]].argmax()))
    assert written(taught(RULES[name], ground, 6), ground, [0]) == favourites


def test_ours_writes_the_text_that_the_target_writes_alone() -> None:
    ground = Ground(toys(1.0), 1.0)
    assert written(Ours(ground, 6), ground, [0]) == [ground.text.at(position) for position in range(8)]


@pytest.mark.parametrize("kind", [DySpec, Sequoia])
def test_one_node_accepts_like_a_chain(kind: type[Rule]) -> None:
    counts = []
    for one in (kind, Chain):
        ground = Ground(toys(1.0), 1.0, seed=5)
        rule = taught(one, ground, 1)
        ground.begin([0], 0)
        counts.append(sum(len(rule.advance([0])) for _ in range(DRAWS)))
    assert abs(counts[0] - counts[1]) < 6 * (DRAWS / 4 * 2) ** 0.5


@pytest.mark.parametrize("kind", REJECTING)
def test_a_draft_that_is_the_target_is_always_accepted(kind: type[Rule]) -> None:
    ground = Ground(toys(0.0), 1.0)
    rule = taught(kind, ground, 3)
    ground.begin([0], 0)
    assert min(len(rule.advance([0])) for _ in range(100)) >= 2
