"""What drafters learn from the target's picks."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest

from specexec.chance import Chance, Families
from specexec.drafters.belief import SMALLEST, TYPICAL_NOISE, Belief, Candidates, features
from specexec.online import OnlineNewton


def candidates(rng: np.random.Generator, *, silent: bool = False, size: int = 12, looked_at: int = 6) -> Candidates:
    """The best of a random model's tokens."""
    x = 2 * rng.normal(size=size)
    log_q = np.sort(x - np.log(np.exp(x).sum()))[::-1][:looked_at]
    return Candidates(np.arange(looked_at), log_q, np.zeros(looked_at) if silent else rng.gumbel(size=looked_at))


def drawn(rng: np.random.Generator, made: Candidates, a: float, b: float) -> int:
    """A pick of a target that follows the belief's own formula."""
    z = features([made])[0][0] @ [a, b]
    p = np.exp(z - z.max())
    return int(rng.choice(len(p), p=p / p.sum()))  # the last row is everything else


def test_nodes_teach_together_what_each_teaches_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where they have not as many candidates."""
    rng, steps = np.random.default_rng(1), list[tuple[np.ndarray, np.ndarray]]()
    monkeypatch.setattr(OnlineNewton, "step", lambda _, gradient, curvature: steps.append((gradient, curvature)))
    seen = [(candidates(rng, looked_at=size, silent=silent), size, 0.5 + size)
            for size, silent in ((6, False), (2, False), (9, True), (1, False))]
    Belief().learn(seen)
    for one in seen:
        Belief().learn([one])
    for together, *alone in zip(*steps, strict=True):
        np.testing.assert_allclose(together, sum(alone), rtol=1e-9, atol=1e-12)


def taught(a: float, b: float, *, silent: bool = False, passes: int = 300, weight: float = 1.0) -> Belief:
    belief, rng = Belief(), np.random.default_rng(0)
    for _ in range(passes):
        seen = [candidates(rng, silent=silent) for _ in range(8)]
        belief.learn([(made, drawn(rng, made, a, b), weight) for made in seen])
    return belief


def test_a_new_belief_trusts_model_and_noise_alike() -> None:
    assert (Belief().a, Belief().b) == (1.0, 1.0)


@pytest.mark.parametrize(("a", "b"), [(1.0, 1.0), (1.5, 0.5), (0.4, 0.0), (0.7, 2.0), (2.0, 2.0)])
def test_a_and_b_move_to_the_truth(a: float, b: float) -> None:
    belief = taught(a, b)
    assert (belief.a, belief.b) == (pytest.approx(a, abs=0.15), pytest.approx(b, abs=0.15))


@pytest.mark.parametrize("a", [0.5, 1.0, 2.0])
def test_without_noise_a_moves_and_b_stays(a: float) -> None:
    belief = taught(a, 0.0, silent=True)
    assert belief.a == pytest.approx(a, abs=0.15)
    assert belief.b == pytest.approx(1.0)


def test_a_model_that_is_the_target_is_trusted_more_and_more() -> None:
    belief, rng = Belief(), np.random.default_rng(1)
    for _ in range(200):
        seen = [candidates(rng, looked_at=12) for _ in range(4)]
        belief.learn([(made, int((made.log_q + made.noise).argmax()), 1.0) for made in seen])
    assert belief.a > 2
    assert belief.b == pytest.approx(belief.a, rel=0.2)


def test_what_has_no_weight_teaches_nothing() -> None:
    belief = taught(2.0, 0.0, passes=5, weight=0.0)
    assert (belief.a, belief.b) == (1.0, 1.0)


def test_a_pass_without_candidates_teaches_nothing() -> None:
    belief = taught(2.0, 0.0, passes=5)
    before = belief.a, belief.b
    belief.learn([])
    assert (belief.a, belief.b) == before


def test_it_follows_a_truth_that_changes() -> None:
    belief, rng = taught(2.0, 0.5), np.random.default_rng(2)
    for _ in range(900):
        seen = [candidates(rng) for _ in range(4)]
        belief.learn([(made, drawn(rng, made, 0.5, 1.5), 1.0) for made in seen])
    assert (belief.a, belief.b) == (pytest.approx(0.5, abs=0.2), pytest.approx(1.5, abs=0.2))


def test_scores_are_log_probabilities_that_leave_room_for_all_others() -> None:
    made = Candidates(np.array([3, 8]), np.log([0.6, 0.3]), np.array([0.2, -0.1]))
    z = np.exp([math.log(0.6) + 0.2, math.log(0.3) - 0.1, math.log(0.1) + TYPICAL_NOISE])
    assert Belief().scores(made) == pytest.approx(np.log(z[:2] / z.sum()))


def test_without_noise_a_new_beliefs_scores_are_the_models() -> None:
    made = Candidates(np.array([3, 8]), np.log([0.6, 0.3]), np.zeros(2))
    assert np.exp(Belief().scores(made)) == pytest.approx([0.6, 0.3])


def test_candidates_that_are_all_there_is_leave_almost_nothing() -> None:
    made = Candidates(np.array([3, 8]), np.log([0.6, 0.4]), np.zeros(2))
    assert 1 - np.exp(Belief().scores(made)).sum() == pytest.approx(SMALLEST, rel=0.1)


def test_nothing_looked_at_has_no_scores() -> None:
    """A model whose logits are no numbers, say."""
    assert len(Belief().scores(Candidates(np.empty(0, np.int64), np.empty(0), np.empty(0)))) == 0


@pytest.mark.parametrize(("pick", "row"), [(3, 0), (8, 1), (5, -1)])
def test_a_pick_that_was_not_looked_at_is_one_of_the_others(pick: int, row: int) -> None:
    assert Candidates(np.array([3, 8]), np.log([0.6, 0.3]), np.zeros(2)).place(pick) == row


# Chance


@dataclass(frozen=True)
class Edge:
    source: str
    score: float
    depth: int
    parent_score: float


def families(of: Sequence[Sequence[Edge]]) -> Families:
    edges = [edge for family in of for edge in family]
    return Families.of([edge.source for edge in edges], [i for i, family in enumerate(of) for _ in family],
                       [edge.score for edge in edges], [edge.depth for edge in edges], [edge.parent_score for edge in edges])


def truth(edge: Edge) -> float:
    belief = math.exp(edge.score)
    return 1 / (1 + math.exp(0.8 - 0.6 * math.log(belief / (1 - belief)) - 0.3 * math.log1p(edge.depth)))


def edges(rng: np.random.Generator, count: int, source: str = "draft") -> list[Edge]:
    return [Edge(source, math.log(rng.uniform(0.02, 0.98)), int(rng.integers(1, 12)), -float(rng.exponential()))
            for _ in range(count)]


def alone(chance: Chance, edge: Edge) -> float:
    """The chance of a node without siblings."""
    return float(chance.of(families([[edge]]))[0])


def test_a_new_source_is_believed() -> None:
    for belief in (0.01, 0.3, 0.9):
        assert alone(Chance(), Edge("draft", math.log(belief), 4, -2.0)) == pytest.approx(belief, rel=0.02)


@pytest.mark.parametrize("score", [0.0, -1e9])
def test_no_chance_is_certain(score: float) -> None:
    assert 0 < alone(Chance(), Edge("draft", score, 4, -50.0)) < 1


def test_siblings_share_one_chance() -> None:
    family = [Edge(source, math.log(0.7), 4, -2.0) for source in ("draft", "chain", "recycled")]
    shares = Chance().of(families([family]))
    assert shares.sum() < 1
    assert shares == pytest.approx([shares[0]] * 3)


def test_families_do_not_see_each_other() -> None:
    rng, chance = np.random.default_rng(1), Chance()
    chance.learn(families([edges(rng, 3), edges(rng, 1)]), [True, False, False, True])
    some = [edges(rng, size, source) for size, source in ((3, "draft"), (1, "chain"), (2, "draft"))]
    apart = np.concatenate([chance.of(families([family])) for family in some])
    assert chance.of(families(some)) == pytest.approx(apart)


def test_chances_become_calibrated() -> None:
    chance, rng = Chance(), np.random.default_rng(0)
    for _ in range(400):
        seen = edges(rng, 16)
        chance.learn(families([[edge] for edge in seen]), [bool(rng.random() < truth(edge)) for edge in seen])
    fresh = edges(rng, 4_000)
    said, true = chance.of(families([[edge] for edge in fresh])), np.array([truth(edge) for edge in fresh])
    for low in np.arange(0, 1, 0.2):
        those = (said >= low) & (said < low + 0.2)
        if those.sum() > 100:
            assert said[those].mean() == pytest.approx(true[those].mean(), abs=0.04)
    assert np.abs(said - true).mean() < 0.03


def test_sources_are_calibrated_apart() -> None:
    chance, rng = Chance(), np.random.default_rng(0)
    for _ in range(100):
        chance.learn(families([[edge] for edge in edges(rng, 8, "random")]), [False] * 8)
    assert alone(chance, Edge("random", math.log(0.5), 3, -1.0)) < 0.05
    assert alone(chance, Edge("draft", math.log(0.5), 3, -1.0)) == pytest.approx(0.5)


def test_without_evidence_a_newton_step_returns_to_its_start() -> None:
    fit = OnlineNewton(np.array([1.0, -1.0]))
    fit.weights = np.array([5.0, 5.0])
    for _ in range(2_000):
        fit.step(np.zeros(2), np.zeros((2, 2)))
    assert fit.weights == pytest.approx([1.0, -1.0], abs=1e-2)
