"""The one rule of verification: it follows the target's picks, and what it writes is an exact sample, whoever drafts."""

import itertools
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cache

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import specexec.decode
from specexec.drafters.belief import Belief, Candidates
from specexec.drafters.grow import Grow, Nothing
from specexec.drafters.growing import Growing, Lesson, Proposal
from specexec.drafters.lookup import Chains, Recycled
from specexec.drafters.setting import Setting
from specexec.drafters.wild import Wild
from specexec.noise import Noise, gumbel
from specexec.roles import Drafter, Worth
from specexec.sampling import Penalties, Sampling
from specexec.tree import ROOT, DraftTree, children_of
from specexec.verify import KEPT, Picks, Verdict, verify
from tests.specexec.test_decode import (
    BLOCK,
    START,
    VOCABULARY,
    Fixed,
    ToyEngine,
    answer_of,
    model_drafter,
    row_of,
    steps,
    table,
)
from tests.surprise import g_test

pytestmark = pytest.mark.usefixtures("one_thread")

#      0
#    1   2      tokens 4 and 7 below the root, 4 below the 7 ...
#  3  4
TREE = DraftTree((9, 4, 7, 4, 5), (ROOT, 0, 0, 1, 1), (0.0,) * 5, ("test",) * 5)


def picks_of(tree: DraftTree, sampling: Sampling | None = None, noise: Noise | None = None, position: int = 0) -> Picks:
    noise = noise or Noise(0, 0, 0, 10, silent=True)
    return Picks(tree, position, sampling or Sampling(), noise, Penalties(sampling or Sampling(), [0], []))


def picked(tree: DraftTree, *tokens: int) -> Picks:
    """Picks as if the target had wanted these tokens; node i's won by i + 1."""
    picks = picks_of(tree)
    picks.tokens = list(tokens)
    picks.margins = [float(node + 1) for node in range(len(tree))]
    return picks


@pytest.mark.parametrize(("tokens", "path", "result"), [
    ((1, 4, 4, 4, 4), (0,), (1,)), ((7, 4, 8, 4, 4), (0, 2), (7, 8)), ((4, 9, 0, 0, 0), (0, 1), (4, 9)),
    ((4, 5, 0, 0, 3), (0, 1, 4), (4, 5, 3)), ((4, 4, 4, 4, 4), (0, 1, 3), (4, 4, 4)),
])
def test_the_walk_follows_the_picks_and_adds_the_first_that_the_tree_lacks(
    tokens: tuple[int, ...], path: tuple[int, ...], result: tuple[int, ...]
) -> None:
    verdict = verify(TREE, picked(TREE, *tokens))
    assert verdict == Verdict(path, result, tuple(float(node + 1) for node in path))


@st.composite
def picked_trees(draw: st.DrawFn) -> tuple[DraftTree, Picks]:
    """A tree over three tokens, and picks at its nodes."""
    tokens, parents = [0], [ROOT]
    for parent, token in draw(st.lists(st.tuples(st.integers(0, 8), st.integers(0, 2)), max_size=10)):
        new = (parent % len(tokens), token)
        if new not in zip(parents, tokens, strict=True):
            parents.append(new[0])
            tokens.append(new[1])
    tree = DraftTree(tuple(tokens), tuple(parents), (0.0,) * len(tokens), ("test",) * len(tokens))
    return tree, picked(tree, *draw(st.lists(st.integers(0, 2), min_size=len(tokens), max_size=len(tokens))))


@given(picked_trees())
def test_a_verdict_is_a_path_of_picks_and_ends_outside_the_tree(given_: tuple[DraftTree, Picks]) -> None:
    tree, picks = given_
    verdict = verify(tree, picks)
    assert verdict.path[0] == 0
    assert verdict.tokens == tuple(picks.tokens[node] for node in verdict.path)
    for parent, node in itertools.pairwise(verdict.path):
        assert (tree.parents[node], tree.tokens[node]) == (parent, picks.tokens[parent])
    assert (verdict.path[-1], verdict.tokens[-1]) not in zip(tree.parents, tree.tokens, strict=True)


# Picks


def test_a_pick_is_the_argmax_with_the_noise_of_the_next_position() -> None:
    noise, logits = Noise(1, 2, 20, 10), torch.randn(5, 10, generator=torch.Generator().manual_seed(0))
    picks = picks_of(TREE, noise=noise, position=24)
    picks(0, logits)
    for node in range(5):
        wanted = logits[node] + gumbel(1, 2, 24 + TREE.depth[node] + 1 - 20, 10)
        assert picks.tokens[node] == int(wanted.argmax())
        ranked = wanted.sort(descending=True).values
        assert picks.margins[node] == pytest.approx(float(ranked[0] - ranked[1]), abs=1e-6)


@pytest.mark.parametrize("temperature", [0.0, 0.5, 1.0, 2.0])
def test_margins_are_in_the_engines_own_logits(temperature: float) -> None:
    picks = picks_of(DraftTree((0,)), Sampling(temperature=temperature))
    picks(0, torch.tensor([[1.0, 3.5, 3.0, 0.0]]))
    assert picks.tokens == [1]
    assert picks.margins == pytest.approx([0.5])


def test_rows_may_come_in_parts() -> None:
    logits = torch.randn(5, 10, generator=torch.Generator().manual_seed(0))
    whole, parts = (picks_of(TREE, Sampling(temperature=0.8, top_p=0.9), Noise(1, 2, 0, 10)) for _ in range(2))
    whole(0, logits)
    for first, last in ((0, 1), (1, 4), (4, 5)):
        parts(first, logits[first:last])
    assert (parts.tokens, parts.margins, parts.top_ids) == (whole.tokens, whole.margins, whole.top_ids)
    assert (parts.top_logits, parts.log_sum_exp) == (whole.top_logits, whole.log_sum_exp)


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_the_best_32_and_the_log_sum_exp_are_of_the_logits_at_the_temperature_without_noise(temperature: float) -> None:
    logits = torch.randn(2, 3_000, generator=torch.Generator().manual_seed(0))
    tree = DraftTree((0, 1), (ROOT, 0), (0.0,) * 2, ("test",) * 2)
    picks = picks_of(tree, Sampling(temperature=temperature, top_k=5), Noise(1, 2, 0, 3_000))
    picks(0, logits)
    x = logits / temperature
    assert picks.top_ids == x.topk(KEPT).indices.tolist()
    torch.testing.assert_close(torch.tensor(picks.top_logits), x.topk(KEPT).values)
    torch.testing.assert_close(torch.tensor(picks.log_sum_exp), x.logsumexp(-1))


def test_a_small_vocabulary_has_fewer_than_32_best() -> None:
    picks = picks_of(DraftTree((0,)))
    picks(0, torch.tensor([[1.0, 2.0, 0.0]]))
    assert picks.top_ids == [[1, 0, 2]]


@given(st.integers(0, 2**32), st.sampled_from([Sampling(top_k=2), Sampling(top_p=0.5), Sampling(min_p=0.5)]))
def test_a_pick_is_never_what_the_filters_leave_out(seed: int, sampling: Sampling) -> None:
    logits = torch.tensor([[0.4, 0.35, 0.15, 0.1]]).log()
    picks = picks_of(DraftTree((0,)), sampling, Noise(seed, 0, 0, 4))
    picks(0, logits)
    assert picks.tokens[0] in (0, 1)


# The exact distribution

SAMPLING = Sampling(temperature=0.8, top_p=0.9)
TARGET = table(0)
LEVEL = 1e-4
BLOCKS = 140  # of three draws; an answer's

Counts = npt.NDArray[np.int64]


def nucleus(logits: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The exact p of a row at SAMPLING, in float64 and without our code."""
    p = np.exp(logits / SAMPLING.temperature)
    p /= p.sum()
    order = np.argsort(-p)
    p[order[p[order].cumsum() - p[order] >= SAMPLING.top_p]] = 0.0
    return p / p.sum()


@cache
def exact() -> npt.NDArray[np.float64]:
    """[216]: the probability of every block."""
    p = [nucleus(row) for row in TARGET.double().numpy()]
    blocks = itertools.product(range(VOCABULARY), repeat=BLOCK)
    return np.array([p[0][a] * p[row_of((a,))][b] * p[row_of((a, b))][c] for a, b, c in blocks])


def surprise(counts: Counts) -> float:
    """p of a G-test against the exact joint distribution; 0 where something impossible was drawn."""
    expected = counts.sum() * exact()
    if counts[expected == 0].any():
        return 0.0
    rare = (expected > 0) & (expected < 5)
    groups = np.where(rare, -1, np.arange(len(expected)))[expected > 0]  # the rare ones count as one
    seen, wanted = (np.array([x[expected > 0][groups == g].sum() for g in np.unique(groups)]) for x in (counts, expected))
    return g_test(seen, wanted)


class TableExpander:
    """Implements Expander from a table of log-probabilities, and a belief that it never changes."""

    models, yields, missing = True, False, 0

    def __init__(self, logits: torch.Tensor, a: float, b: float) -> None:
        self.log_q = (logits / SAMPLING.temperature).log_softmax(-1).double().numpy()
        self.belief = Belief()
        self.belief._fit.weights = np.array([a, b])

    def begin(self, setting: Setting) -> None:
        self.setting = setting

    def expand(self, tree: Growing, nodes: list[int]) -> list[Proposal]:
        return [made for node in nodes for made in self._below(tree, node)]

    def knows(self, tree: Growing, node: int) -> bool:
        return False

    def learn(self, lessons: list[Lesson]) -> None:
        """Keeps its belief."""

    def _below(self, tree: Growing, node: int) -> list[Proposal]:
        written = len(self.setting.context) - 1 + tree.depth[node]
        text = [*self.setting.context[-BLOCK:], *tree.path(node)]
        row = row_of(text[len(text) - written % BLOCK :])
        ids = np.arange(VOCABULARY)
        scores = self.belief.scores(Candidates(ids, self.log_q[row], self.setting.noise_of(tree.depth[node], ids)))
        return [Proposal(node, token, float(score), "table") for token, score in enumerate(scores)]


def good() -> Drafter:
    """Nearly the target, knowing the noise."""
    return Grow([TableExpander(TARGET + 0.3 * table(1), 1.0, 1.0)], 10_000)


def wrong() -> Drafter:
    """Likes best what the target likes least, and where the noise is against it."""
    return Grow([TableExpander(-TARGET, 1.0, -1.0)], 10_000)


class Foreseen:
    """Implements Drafter: what the target will write, every eighth token wrong. A pass takes many draws."""

    def __init__(self) -> None:
        law = np.stack([nucleus(row) for row in TARGET.double().numpy()])
        self.log_p = np.log(law, out=np.full_like(law, -np.inf), where=law > 0)

    def draft(self, context: Sequence[int], worth: Worth, sampling: Sampling, noise: Noise) -> DraftTree:
        text = list(context)
        for position in range(len(context), len(context) + worth.budget):
            row = row_of(text[1 + (position - 1) // BLOCK * BLOCK :])
            text.append((int((self.log_p[row] + noise.at(position).numpy()).argmax()) + (position % 8 == 0)) % VOCABULARY)
        n = worth.budget + 1
        return DraftTree(tuple(text[-n:]), tuple(range(ROOT, n - 1)), (0.0,) * n, ("test",) * n)

    def learn(self, tree: DraftTree, picks: Picks, verdict: Verdict) -> None:
        """Knows all."""

    def meanwhile(self, tree: DraftTree) -> AbstractContextManager[None]:
        return nullcontext()


SAMPLED: dict[str, tuple[Callable[[], Drafter], int, int]] = {  # (drafter, answers, budget)
    "plain": (Nothing, 20, 5), "good": (good, 20, 5), "wrong": (wrong, 20, 5), "foreseen": (Foreseen, 180, 7)}


def draws(make: Callable[[], Drafter], first: int, answers: int, target: torch.Tensor = TARGET, budget: int = 5) -> Counts:
    """[216]: how often each block was written, in `answers` answers that share no noise."""
    counts = np.zeros(VOCABULARY**BLOCK, dtype=np.int64)
    for number in range(first, first + answers):
        answer = answer_of(BLOCKS * BLOCK)
        steps(ToyEngine(target), make(), answer, SAMPLING, seed=number // 10, number=number % 10, budget=budget)
        blocks = np.array(answer.ids).reshape(-1, BLOCK) @ [VOCABULARY**2, VOCABULARY, 1]
        counts += np.bincount(blocks, minlength=len(counts))
    return counts


@pytest.fixture(scope="module")
def counted() -> dict[str, Counts]:
    """Draws of every drafter, no two of which share noise."""
    return {name: draws(make, 1_000 * i, answers, budget=budget)
            for i, (name, (make, answers, budget)) in enumerate(SAMPLED.items())}


@pytest.mark.parametrize("name", SAMPLED)
def test_blocks_have_the_targets_exact_joint_distribution(name: str, counted: dict[str, Counts]) -> None:
    assert counted[name].sum() == BLOCKS * SAMPLED[name][1]
    assert surprise(counted[name]) > LEVEL


def test_100_000_draws_together_have_the_exact_joint_distribution(counted: dict[str, Counts]) -> None:
    together = np.sum(list(counted.values()), axis=0)
    assert together.sum() * BLOCK >= 100_000
    assert surprise(together) > LEVEL


def test_some_blocks_are_impossible_and_many_are_not() -> None:
    assert exact().sum() == pytest.approx(1)
    assert 30 < (exact() > 0).sum() < 200


def generous(tree: DraftTree, picks: Picks) -> Verdict:
    """verify with a planted bias: one time in twenty it accepts a first child that sampling allows, whatever the pick."""
    luck = np.random.default_rng([*tree.tokens, *picks.tokens, int(1e6 * sum(picks.margins))])
    path, tokens = [0], []
    while True:
        children = children_of(tree.tokens, tree.parents)[1][path[-1]]
        possible = [token for token in children if token in likely(picks, path[-1])]
        tokens.append(possible[0] if possible and luck.random() < 0.05 else picks.tokens[path[-1]])
        if tokens[-1] not in children:
            return Verdict(tuple(path), tuple(tokens), (1.0,) * len(tokens))
        path.append(children[tokens[-1]])


def likely(picks: Picks, node: int) -> list[int]:
    """The ids that SAMPLING allows at a node, from what its picks remember."""
    p = nucleus(SAMPLING.temperature * np.array(picks.top_logits[node]))
    return [token for token, mass in zip(picks.top_ids[node], p, strict=True) if mass]


def stubborn() -> Drafter:
    """Offers what is least likely among what sampling allows, whatever the noise."""
    p = np.stack([nucleus(row) for row in TARGET.double().numpy()])
    return Grow([TableExpander(torch.tensor(np.where(p > 0, -40 * p, -90.0)), 1.0, 0.0)], 10_000)


def test_five_percent_more_acceptance_of_first_children_is_detected(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = draws(stubborn, 0, 6, budget=1)
    monkeypatch.setattr(specexec.decode, "verify", generous)
    biased = draws(stubborn, 0, 6, budget=1)
    assert not biased[exact() == 0].any()  # frequencies alone give it away
    assert surprise(biased) < LEVEL < surprise(honest)


@pytest.mark.parametrize("index", range(BLOCK))
def test_noise_missing_in_one_position_of_a_block_is_detected(index: int, monkeypatch: pytest.MonkeyPatch) -> None:
    heard = Noise.at
    monkeypatch.setattr(
        Noise, "at", lambda self, position: heard(self, position) * float((position - self.origin) % BLOCK != index))
    assert surprise(draws(good, 0, 4)) < LEVEL


def test_noise_used_twice_in_a_block_is_detected(monkeypatch: pytest.MonkeyPatch) -> None:
    heard = Noise.at
    monkeypatch.setattr(
        Noise, "at", lambda self, position: heard(self, position - ((position - self.origin) % BLOCK == 2)))
    assert surprise(draws(good, 0, 8)) < LEVEL


def test_a_slightly_different_target_is_detected() -> None:
    assert surprise(draws(good, 0, 10, TARGET + 0.1 * table(1))) < LEVEL


# The text is the target's and the seed's alone

DRAFTERS: dict[str, Callable[[], Drafter]] = {
    "good model": lambda: model_drafter(ToyEngine(TARGET + 0.3 * table(1))),
    "wrong model": lambda: model_drafter(ToyEngine(-TARGET), 1.0, -1.0),
    "wrong model that trusts the noise alone": lambda: model_drafter(ToyEngine(-TARGET), 0.1, 3.0),
    "lookup": lambda: Grow([Chains(), Recycled()], 10_000),
    "all together": lambda: Grow(
        [Chains(), Recycled(), *model_drafter(ToyEngine(table(3))).expanders, Wild(VOCABULARY)], 10_000),
    "random": lambda: Grow([Wild(VOCABULARY)], 10_000),
    "a fixed chain": lambda: Fixed(1, 2, 3),
}
SAMPLINGS = [
    Sampling(temperature=0.0), Sampling(), SAMPLING, Sampling(temperature=1.3, top_k=4, min_p=0.05),
    Sampling(repeat_penalty=1.3, presence_penalty=0.2, frequency_penalty=0.05),
    Sampling(temperature=0.0, repeat_penalty=1.3, frequency_penalty=0.02),
]


def written(make: Callable[[], Drafter], sampling: Sampling, tokens: int = 45, **others: int) -> list[int]:
    answer = answer_of(tokens)
    steps(ToyEngine(TARGET), make(), answer, sampling, **others)
    return answer.ids


@cache
def plain(sampling: Sampling, seed: int) -> list[int]:
    return written(Nothing, sampling, seed=seed)


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=range(len(SAMPLINGS)))
@pytest.mark.parametrize("name", DRAFTERS)
def test_every_drafter_and_budget_gives_the_text_of_plain_decoding(name: str, sampling: Sampling) -> None:
    for seed, budget in ((1, 1), (2, 5), (3, 23)):
        assert written(DRAFTERS[name], sampling, seed=seed, budget=budget) == plain(sampling, seed)


def test_a_budget_of_0_gives_the_text_of_plain_decoding() -> None:
    assert written(DRAFTERS["good model"], SAMPLING, budget=0) == written(Nothing, SAMPLING)


def test_a_good_drafter_needs_far_fewer_passes() -> None:
    taken = [len(steps(ToyEngine(TARGET), make(), answer_of(90), SAMPLING, budget=8)) for make in (Nothing, good, wrong)]
    assert taken[0] == 90
    assert taken[1] < 40
    assert taken[2] > taken[1]


@pytest.mark.parametrize("others", [{"seed": 8}, {"number": 1}])
def test_another_seed_or_answer_number_gives_another_text(others: dict[str, int]) -> None:
    for make in (Nothing, good):
        assert written(make, Sampling(), **{"seed": 7, "number": 0} | others) != written(make, Sampling(), seed=7, number=0)


def test_answers_of_one_conversation_share_no_noise() -> None:
    texts = np.array([written(Nothing, Sampling(), 150, seed=7, number=number) for number in range(4)])
    same = [float((one == other).mean()) for one, other in itertools.combinations(texts, 2)]
    assert max(same) < 0.4  # what chance alone gives


def test_greedy_text_depends_on_no_seed() -> None:
    assert written(Nothing, Sampling(temperature=0.0), seed=1) == written(Nothing, Sampling(temperature=0.0), seed=2)


def test_the_prompt_is_no_part_of_the_answer() -> None:
    assert written(lambda: Fixed(START), Sampling()) == written(Nothing, Sampling())
