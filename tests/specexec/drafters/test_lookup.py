"""Guesses without a model."""

import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from specexec.drafters.grow import Grow
from specexec.drafters.growing import Growing, Lesson, Proposal
from specexec.drafters.lookup import BRANCHES, SUCCESSORS, Chains, Recycled
from specexec.drafters.setting import Setting
from specexec.noise import Noise
from specexec.roles import Worth
from specexec.sampling import Penalties, Sampling
from tests.specexec.drafters.test_automaton import following, repeated
from tests.specexec.test_decode import always, answer_of, steps

SIZE = 10
texts = st.lists(st.integers(0, 2), min_size=1, max_size=30)


def setting(context: Sequence[int], seed: int | None = None) -> Setting:
    noise = Noise(seed or 0, 0, 0, SIZE, silent=seed is None)
    return Setting(context, Sampling(), noise, Penalties(Sampling(), context, []))


def tree_at(context: Sequence[int], *below: int) -> Growing:
    """A growing tree with `below` as a chain under the root."""
    tree = Growing(context[-1], 50, 50)
    for parent, token in enumerate(below):
        tree.offer([Proposal(parent, token, 0.0, "test")])
    return tree


def proposed(source: Chains | Recycled, context: Sequence[int], *below: int, seed: int | None = None) -> dict[int, float]:
    """{token: score} below the end of the chain `below`."""
    source.begin(setting(context, seed))
    found = source.expand(tree_at(context, *below), [len(below)])
    assert all(made.parent == len(below) and made.source == source.source for made in found)
    return {made.token: made.score for made in found}


def lesson(
    node: int, pick: int, *, before: Sequence[int] = (0,), weight: float = 1.0, top: Sequence[int] = (), p: Sequence[float] = ()
) -> Lesson:
    return Lesson(node, tuple(before), pick, weight, list(top), [math.log(value) for value in p])


def best(found: dict[int, float]) -> int:
    return max(found, key=lambda token: found[token])


# Chains


@given(texts)
def test_chains_propose_what_followed_the_longest_repeated_suffix(text: list[int]) -> None:
    suffix = repeated(text)
    assert set(proposed(Chains(), text)) == (following(text, suffix) if suffix else set())


@given(texts, st.lists(st.integers(0, 2), max_size=5))
def test_chains_go_on_along_what_followed(text: list[int], below: list[int]) -> None:
    suffix = repeated(text)
    assert set(proposed(Chains(), text, *below)) == (following(text, [*suffix, *below]) if suffix else set())


def test_chains_have_no_more_branches_than_allowed() -> None:
    text = [token for follower in range(8) for token in (9, follower)] + [9]
    assert len(proposed(Chains(), text)) == BRANCHES


@given(texts, st.integers(1, 99))
def test_scores_are_log_beliefs_whatever_the_noise(text: list[int], seed: int) -> None:
    for found in (proposed(Chains(), text), proposed(Chains(), text, seed=seed)):
        assert all(score <= 0 for score in found.values())


def test_untried_chains_share_one_half() -> None:
    assert proposed(Chains(), [1, 2, 1]) == {2: pytest.approx(math.log(1 / 2))}
    assert proposed(Chains(), [1, 2, 1, 3, 1]) == {2: pytest.approx(math.log(1 / 4)), 3: pytest.approx(math.log(1 / 4))}


@pytest.mark.parametrize(("pick", "expected"), [(2, 21 / 22), (0, 1 / 22)])
def test_chains_learn_how_often_a_match_of_that_length_goes_on(pick: int, expected: float) -> None:
    chains = Chains()
    for _ in range(20):
        proposed(chains, [1, 2, 1])
        chains.learn([lesson(0, pick)])
    assert proposed(chains, [1, 2, 1])[2] == pytest.approx(math.log(expected))
    assert proposed(chains, [7, 8, 2, 7, 8])[2] == pytest.approx(math.log(1 / 2))  # a longer match


def test_chains_learn_nothing_where_they_offered_nothing() -> None:
    chains = Chains()
    proposed(chains, [1, 2, 3])
    chains.learn([lesson(0, 2)])
    assert proposed(chains, [1, 2, 1])[2] == pytest.approx(math.log(1 / 2))


def test_the_noise_of_a_token_raises_its_score() -> None:
    context = [1, 2, 1, 3, 1]
    found = proposed(Chains(), context, seed=4)
    noise = Noise(4, 0, 0, SIZE).at(len(context))
    assert (found[2] > found[3]) == bool(noise[2] > noise[3])


def test_a_score_is_the_chance_to_win_against_the_noise_of_all_others() -> None:
    rng, noise = np.random.default_rng(0), Noise(4, 0, 0, SIZE).at(3)
    others = rng.gumbel(size=200_000) + math.log(0.5)  # all others together weigh one half
    won = float((math.log(0.5) + float(noise[2]) > others).mean())
    assert math.exp(proposed(Chains(), [1, 2, 1], seed=4)[2]) == pytest.approx(won, abs=0.01)


# Recycled


def test_what_was_never_evaluated_has_no_successors() -> None:
    assert proposed(Recycled(), [1, 2]) == {}


def test_the_targets_favourites_after_a_token_come_back() -> None:
    recycled = Recycled()
    recycled.learn([lesson(0, 5, before=[2], top=(5, 6, 7), p=(0.6, 0.3, 0.05))])
    found = proposed(recycled, [1, 2])
    assert sorted(found, key=lambda token: -found[token]) == [5, 6, 7]
    law = recycled.laws.below([1, 2])
    assert law is not None
    assert [math.exp(found[token]) for token in law[0].tolist()] == pytest.approx(law[1])


def test_two_tokens_that_match_outdo_one() -> None:
    recycled = Recycled()
    recycled.learn([lesson(0, 5, before=[1, 2], top=(5,), p=(0.9,)), lesson(0, 6, before=[3, 2], top=(6,), p=(0.9,))])
    assert best(proposed(recycled, [1, 2])) == 5
    assert best(proposed(recycled, [3, 2])) == 6
    alike = proposed(recycled, [4, 2])
    assert alike[5] == pytest.approx(alike[6])


def test_below_a_drafted_node_its_parents_are_the_tokens_before() -> None:
    recycled = Recycled()
    recycled.learn([lesson(0, 5, before=[1, 2, 3], top=(5,), p=(0.9,)), lesson(0, 6, before=[9, 2, 3], top=(6,), p=(0.9,))])
    assert best(proposed(recycled, [1, 2], 3)) == 5
    assert best(proposed(recycled, [8, 9], 2, 3)) == 6


def test_no_more_successors_are_proposed_than_allowed() -> None:
    recycled, wide = Recycled(), range(2 * SUCCESSORS)
    for half in (wide[:SUCCESSORS], wide[SUCCESSORS:]):
        recycled.learn([lesson(0, 0, before=[2], top=half, p=[1 / SUCCESSORS] * SUCCESSORS)])
    assert len(proposed(recycled, [1, 2])) == SUCCESSORS


def test_an_unlikely_token_of_loud_noise_is_proposed_first() -> None:
    recycled, noise = Recycled(), Noise(4, 0, 0, SIZE).at(2)
    loud = int(noise.argmax())
    quiet = int(noise.argmin())
    recycled.learn([lesson(0, 0, before=[2], top=(quiet, loud), p=(0.55, 0.45))])
    assert best(proposed(recycled, [1, 2])) == quiet
    assert best(proposed(recycled, [1, 2], seed=4)) == loud


# Together


def test_a_text_that_repeats_itself_is_written_many_tokens_a_pass() -> None:
    drafter = Grow([Chains(), Recycled()], 10_000)
    assert len(steps(always(1, 2, 3), drafter, answer_of(120), Sampling(temperature=0.0), budget=16)) < 30


def test_what_both_propose_is_drafted_once() -> None:
    drafter = Grow([Chains(), Recycled()], 10_000)
    for step in steps(always(1, 2, 3), drafter, answer_of(60), Sampling(temperature=0.0), budget=16):
        assert len(step.tree) <= 17  # DraftTree itself refuses siblings that are equal


def test_a_first_tree_without_anything_known_is_the_root_alone() -> None:
    noise = Noise(0, 0, 3, SIZE)
    assert len(Grow([Chains(), Recycled()], 100).draft([1, 2, 3], Worth(8), Sampling(), noise)) == 1
