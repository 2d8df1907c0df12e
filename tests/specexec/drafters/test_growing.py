"""SpecExec growth against a search of the whole tree of continuations."""

import heapq
import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import specexec.drafters.crew
from specexec.cost import Curve
from specexec.drafters.belief import SMALLEST, TYPICAL_NOISE
from specexec.drafters.crew import AGAIN
from specexec.drafters.grow import Grow, Nothing
from specexec.drafters.growing import Growing, Lesson, Proposal
from specexec.drafters.likely import WIDTH
from specexec.drafters.lookup import Chains
from specexec.drafters.model import ModelExpander
from specexec.drafters.setting import Setting
from specexec.drafters.wild import Wild
from specexec.noise import Noise, gumbel
from specexec.roles import Limits, Reader, Worth
from specexec.sampling import Sampling, cut
from specexec.tree import DraftTree
from specexec.vocabulary import Vocabulary
from tests.specexec.test_decode import BLOCK, START, VOCABULARY, ToyEngine, model_drafter, row_of, table

GREEDY = Sampling(temperature=0.0)
ALL_OF_TWO_LEVELS = VOCABULARY + VOCABULARY**2

Path = tuple[int, ...]


def grown(
    model: ToyEngine, budget: int, sampling: Sampling | None = None, *, context: Sequence[int] = (START,), seed: int = 0,
    deepest: int = 1_000, a: float = 1.0, b: float = 1.0,
) -> DraftTree:
    sampling = sampling or Sampling()
    drafter = model_drafter(model, a, b)
    drafter.context = len(context) + deepest
    noise = Noise(seed, 0, 1, VOCABULARY, silent=sampling.temperature == 0)
    return drafter.draft(context, Worth(budget), sampling, noise)


def paths(tree: DraftTree) -> dict[Path, float]:
    """{tokens below the root: score} of every node but the root."""
    return {tuple(tree.tokens[i] for i in tree.path(node)[1:]): tree.score[node] for node in range(1, len(tree))}


def edge_scores(row: torch.Tensor, noise: npt.NDArray[np.float64], a: float, b: float) -> npt.NDArray[np.float64]:
    """log softmax (a log q + b g) of all tokens, and of the little that all others weigh."""
    z = a * row.double().log_softmax(-1).numpy() + b * noise
    others = a * math.log(SMALLEST) + b * (TYPICAL_NOISE if noise.any() else 0.0)
    return z - np.log(np.exp(z).sum() + np.exp(others))


def best(
    model: ToyEngine, budget: int, *, context: Sequence[int] = (START,), seed: int | None = 0, deepest: int = 1_000,
    a: float = 1.0, b: float = 1.0,
) -> dict[Path, float]:
    """The `budget` best continuations of all, by Dijkstra."""
    found: dict[Path, float] = {}
    queue: list[tuple[float, Path]] = [(0.0, ())]
    while queue and len(found) <= budget:
        cost, path = heapq.heappop(queue)
        found[path] = -cost
        if len(path) == deepest:
            continue
        written = [*context[1:], *path]
        row = model.table[row_of(written[len(written) - len(written) % BLOCK :])]
        noise = np.zeros(VOCABULARY) if seed is None else gumbel(seed, 0, len(written), VOCABULARY).double().numpy()
        for token, score in enumerate(edge_scores(row, noise, a, b)):
            heapq.heappush(queue, (cost - score, (*path, token)))
    del found[()]
    return found


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Growth that looks below every node that may be among the best."""
    monkeypatch.setattr(specexec.drafters.crew, "WORTH_LOOKING", 0.0)


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("budget", [1, 2, 5, 17, 60])
@pytest.mark.parametrize(("a", "b"), [(1.0, 1.0), (1.0, 0.0), (0.5, 1.5)])
@pytest.mark.parametrize("context", [(START,), (START, 1), (START, 1, 4, 0, 2, 2)])
def test_the_tree_is_exactly_the_best_nodes(budget: int, a: float, b: float, context: tuple[int, ...]) -> None:
    model = ToyEngine(table(7))
    expected = best(model, budget, context=context, a=a, b=b)
    assert paths(grown(model, budget, context=context, a=a, b=b)) == pytest.approx(expected, abs=1e-4)


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("seed", range(8))
def test_so_it_is_for_other_models_and_noises(seed: int) -> None:
    model = ToyEngine(table(seed))
    assert paths(grown(model, 25, seed=seed)) == pytest.approx(best(model, 25, seed=seed), abs=1e-4)


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("budget", [1, 6, 40])
def test_a_greedy_tree_is_exactly_the_best_nodes_without_noise(budget: int) -> None:
    model = ToyEngine(table(7))
    assert paths(grown(model, budget, GREEDY)) == pytest.approx(best(model, budget, seed=None), abs=1e-4)


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("deepest", [1, 2, 3])
def test_within_a_depth_the_tree_is_exactly_the_best_nodes(deepest: int) -> None:
    model = ToyEngine(table(7))
    tree = grown(model, 30, deepest=deepest)
    assert max(tree.depth) == deepest
    assert paths(tree) == pytest.approx(best(model, 30, deepest=deepest), abs=1e-4)


@pytest.mark.parametrize("budget", [0, 1, 3, 40])
@pytest.mark.parametrize("seed", range(3))
def test_a_tree_has_the_budgets_nodes_and_holds_every_nodes_parent(budget: int, seed: int) -> None:
    tree = grown(ToyEngine(table(seed)), budget, seed=seed)
    assert len(tree) == 1 + budget
    assert tree.tokens[0] == START
    for path in paths(tree):
        assert len(path) == 1 or path[:-1] in paths(tree)
    for node in range(1, len(tree)):
        assert tree.score[node] <= tree.score[tree.parents[node]]
        assert 0 <= tree.chance[node] <= tree.chance[tree.parents[node]] <= 1


def test_a_budget_of_0_asks_no_model() -> None:
    model = ToyEngine(table(0))
    assert len(grown(model, 0)) == 1
    assert model.calls == []


def test_a_budget_of_1_is_the_best_child() -> None:
    assert list(paths(grown(ToyEngine(table(0)), 1, GREEDY))) == [(int(table(0)[0].argmax()),)]


def test_a_budget_far_larger_than_what_exists_takes_everything() -> None:
    tree = grown(ToyEngine(table(0)), 100_000, deepest=2)
    assert len(tree) == 1 + ALL_OF_TWO_LEVELS


@pytest.mark.parametrize("deepest", [0, 1, 4])
def test_no_node_passes_the_targets_context(deepest: int) -> None:
    tree = grown(ToyEngine(table(0)), 50, deepest=deepest)
    assert max(tree.depth) == deepest


def test_no_node_is_looked_below_past_the_drafts_own_context() -> None:
    model = ToyEngine(table(0), context=4)  # it asserts this itself
    assert max(grown(model, 50, context=(START, 1, 2)).depth) == 2
    assert max(grown(model, 50, context=(START, 1, 2, 3)).depth) == 1
    assert max(grown(model, 50, context=(START, 1, 2, 3, 4)).depth) == 0


@pytest.mark.parametrize("limit", [1, 2, 8])
def test_a_draft_pass_never_holds_more_nodes_than_the_engine_takes(limit: int) -> None:
    model = ToyEngine(table(0), tree=limit)
    tree = grown(model, 60)
    assert max(len(called) for _, called, _ in model.calls) <= limit
    assert len(tree) == 1 + min(60, VOCABULARY * limit)


def test_every_draft_pass_goes_on_where_the_last_one_ended() -> None:
    model = ToyEngine(table(0))
    grown(model, 40)
    evaluated = 0
    for _, called, first in model.calls:
        assert first == evaluated < len(called)
        evaluated = len(called)
    assert len(model.calls) < 20


def test_a_model_that_was_slow_is_looked_at_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where something else drafts meanwhile, so that the budget never sleeps."""
    model, now = ToyEngine(table(0)), [100.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    drafter, noise = model_drafter(model), Noise(0, 0, 1, VOCABULARY)
    drafter.crews[0].curve = Curve().measured([1, 2, 4], [10.0] * 3)
    worth = Worth(8, 100.0, 10 + 0.01 * np.arange(9))
    looked = []
    for now[0] in (101.0, 200.0, 100.0 + 11 / AGAIN, 101.0 + 11 / AGAIN):
        before = len(model.calls)
        drafter.draft([START], worth, Sampling(), noise)
        looked.append(len(model.calls) - before)
    assert looked == [0, 0, 1, 0]


def test_growth_ends_where_a_pass_would_add_little() -> None:
    sure = torch.full((1 + ALL_OF_TWO_LEVELS, VOCABULARY), -30.0)
    sure[:, 0] = 0.0
    model = ToyEngine(sure)
    grown(model, 30, GREEDY, deepest=5)
    assert len(model.calls) == 5  # along the one continuation there is


@pytest.mark.parametrize("sampling", [
    Sampling(top_k=2), Sampling(top_p=0.5), Sampling(min_p=0.6), Sampling(temperature=0.7, top_k=3, top_p=0.8)], ids=str)
def test_what_sampling_rules_out_is_not_drafted(sampling: Sampling) -> None:
    model = ToyEngine(table(2))
    for path in paths(grown(model, 30, sampling)):
        x = model.table[row_of(path[:-1][len(path[:-1]) - (len(path) - 1) % BLOCK :])][None] / sampling.temperature
        filtered = cut(x, sampling)
        assert filtered is not None
        assert x[0, path[-1]] >= filtered.threshold[0, 0]


class OneRow:
    """Implements Engine: the same logits everywhere."""

    def __init__(self, row: torch.Tensor) -> None:
        self.row, self.missing = row, 0
        self.limits, self.asked = Limits(1_000, 1_000, len(row)), []  # type: ignore[var-annotated]

    def sync(self, tokens: Sequence[int]) -> None:
        self.asked.append(list(tokens))

    def forward(self, tree: DraftTree, reader: Reader, first: int = 0) -> None:
        self.asked.append(list(tree.tokens))
        reader(first, self.row.expand(len(tree) - first, -1))


@pytest.mark.parametrize("sampling", [Sampling(top_k=5), Sampling(top_p=0.01), Sampling(min_p=0.9), Sampling()], ids=str)
@pytest.mark.parametrize("size", [2_049, 5_000, 50_257])
def test_large_vocabularies_of_any_size_can_be_filtered(sampling: Sampling, size: int) -> None:
    row = torch.randn(size, generator=torch.Generator().manual_seed(0))
    row[-3:] += 9.0  # the best are in the last, short block
    drafter = Grow([ModelExpander(OneRow(row), Vocabulary(None))], 1_000)
    tree = drafter.draft([1, 2], Worth(40), sampling, Noise(0, 0, 1, size))
    assert len(tree) > 1
    assert max(tree.tokens) < size


def test_below_a_node_no_more_children_are_looked_at_than_the_width() -> None:
    drafter = Grow([ModelExpander(OneRow(torch.zeros(100)), Vocabulary(None))], 3)
    assert len(drafter.draft([1, 2], Worth(80), GREEDY, Noise(0, 0, 1, 100, silent=True))) == 1 + WIDTH


def test_a_draft_with_other_ids_grows_the_same_tree() -> None:
    row, of_target = torch.tensor([0.5, 1.0, 0.1, 2.0, -1.0]), torch.tensor([3, 0, 4, 1, 2])
    permuted = torch.empty(5)
    permuted[of_target] = row
    same, other = OneRow(row), OneRow(permuted)
    noise = Noise(3, 0, 1, 5)
    trees = [Grow([ModelExpander(engine, Vocabulary(mapping))], 1_000).draft([1, 2], Worth(20), Sampling(), noise)
             for engine, mapping in ((same, None), (other, of_target))]
    assert trees[0] == trees[1]
    assert other.asked == [[int(of_target[token]) for token in tokens] for tokens in same.asked]


# Several sources, and the growing tree by itself


class Told:
    """Implements Expander: proposes below the root what it is told."""

    models, yields, missing = False, False, 0

    def __init__(self, source: str, *proposals: tuple[int, float]) -> None:
        self.proposals = [Proposal(0, token, score, source) for token, score in proposals]
        self.lessons: list[Lesson] = []

    def begin(self, setting: Setting) -> None:
        """Has been told."""

    def expand(self, tree: Growing, nodes: list[int]) -> list[Proposal]:
        return self.proposals if 0 in nodes else []

    def knows(self, tree: Growing, node: int) -> bool:
        return False

    def learn(self, lessons: list[Lesson]) -> None:
        self.lessons += lessons


@pytest.mark.parametrize("order", [1, -1])
def test_of_equal_proposals_the_better_one_counts(order: int) -> None:
    sources = [Told("one", (1, -2.0), (2, -0.5)), Told("two", (1, -1.0), (2, -3.0))][::order]
    tree = Grow(sources, 100).draft([7], Worth(9), Sampling(), Noise(0, 0, 1, 9))
    assert {tree.tokens[i]: (tree.source[i], tree.score[i]) for i in (1, 2)} == {1: ("two", -1.0), 2: ("one", -0.5)}
    assert len(tree) == 3


def test_sources_fill_one_tree_with_the_best_of_all() -> None:
    sources = [Told("one", (1, -0.1), (2, -0.3), (3, -0.5)), Told("two", (4, -0.2), (5, -0.4))]
    tree = Grow(sources, 100).draft([7], Worth(3), Sampling(), Noise(0, 0, 1, 9))
    assert sorted(tree.tokens[1:]) == [1, 2, 4]


def test_what_a_model_says_of_a_token_stands() -> None:
    model = Told("model", (1, -2.0), (2, -0.3))
    model.models = True
    tree = Grow([Told("text", (1, -0.1), (3, -1.0)), model], 100).draft([7], Worth(9), Sampling(), Noise(0, 0, 1, 9))
    found = zip(tree.tokens, tree.parents, tree.source, strict=True)
    assert {(token, source) for token, parent, source in found if parent == 0} == {(1, "model"), (2, "model"), (3, "text")}


def test_a_chain_grows_beside_a_model() -> None:
    model = Told("model", (3, -0.1))
    model.models = True
    tree = Grow([Chains(), model], 1_000).draft([1, 2, 3, 1, 2], Worth(20), GREEDY, Noise(0, 0, 1, VOCABULARY, silent=True))
    assert list(zip(tree.tokens, tree.source, strict=True))[:4] == [(2, "root"), (3, "model"), (1, "chain"), (2, "chain")]


def test_a_scores_excess_over_certainty_is_ignored() -> None:
    tree = Grow([Told("one", (1, 0.7))], 100).draft([7], Worth(3), Sampling(), Noise(0, 0, 1, 9))
    assert tree.score == (0.0, 0.0)


offers = st.lists(st.tuples(st.integers(0, 20), st.integers(0, 3), st.floats(-5, 0)), max_size=40)


@given(offers, st.integers(1, 12))
def test_whatever_is_offered_the_best_offers_are_chosen(offered: list[tuple[int, int, float]], budget: int) -> None:
    tree, all_ = Growing(0, budget, 100), Growing(0, 10_000, 100)
    for parent, token, score in offered:
        below = (parent % len(tree.tokens), token)
        if below in zip(tree.parents, tree.tokens, strict=True):
            continue
        place = [all_.path(node) for node in range(len(all_.tokens))].index(tree.path(below[0]))
        tree.offer([Proposal(*below, score, "test")])
        all_.offer([Proposal(place, token, score, "test")])
    chosen = [0, *sorted(tree.ranked())]
    assert sorted(tree.score[node] for node in chosen[1:]) == sorted(all_.score[1:], reverse=True)[:budget][::-1]
    assert chosen == sorted(chosen)
    assert {tree.parents[node] for node in chosen[1:]} <= set(chosen)


@given(offers)
def test_waiting_nodes_come_best_first_and_once(offered: list[tuple[int, int, float]]) -> None:
    tree = Growing(0, 100, 100)
    for parent, token, score in offered:
        if (parent % len(tree.tokens), token) not in zip(tree.parents, tree.tokens, strict=True):
            tree.offer([Proposal(parent % len(tree.tokens), token, score, "test")])
    taken = [node for _ in range(50) for node in tree.best_waiting(3)]
    assert sorted(taken) == list(range(len(tree.tokens)))
    assert [tree.score[node] for node in taken] == sorted(tree.score, reverse=True)


def test_random_guesses_are_distinct_siblings() -> None:
    tree = Grow([Wild(3)], 100).draft([7], Worth(20), Sampling(), Noise(0, 0, 1, 9))
    assert len(tree) == 21


def test_plain_decoding_drafts_the_root_alone() -> None:
    assert Nothing().draft([1, 2], Worth(20), Sampling(), Noise(0, 0, 1, 9)) == DraftTree((2,))
