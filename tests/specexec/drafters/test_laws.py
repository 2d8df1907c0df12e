"""Laws of the target, remembered by the tokens they came after."""

import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from specexec.drafters import laws as memory
from specexec.drafters.laws import AGREED, DOUBT, KEPT, UNSEEN, Laws

few = st.lists(st.integers(0, 2), min_size=1, max_size=3)
halves = st.lists(st.floats(0.0, 0.5), min_size=2, max_size=2)


def known(laws: Laws, before: Sequence[int]) -> dict[int, float]:
    found = laws.below(before)
    return {} if found is None else dict(zip(found[0].tolist(), found[1].tolist(), strict=True))


def told(*lessons: tuple[Sequence[int], dict[int, float]]) -> Laws:
    laws = Laws()
    for before, p in lessons:
        laws.learn(before, list(p), np.log(np.maximum(list(p.values()), 1e-30)))
    return laws


def mixed(*tokens: tuple[int, Sequence[tuple[float, float]]]) -> dict[int, float]:
    """By the formula, of each token (share, p) in the laws that are mixed, p of 0 where a law does not name it."""
    p = {token: sum(share * one for share, one in laws) for token, laws in tokens}
    agreed = {token: math.exp(sum(share * max(math.log(one) if one else UNSEEN, UNSEEN) for share, one in laws)
                              / sum(share for share, _ in laws)) for token, laws in tokens}
    both = {token: p[token] ** (1 - AGREED) * agreed[token] ** AGREED for token in p}
    return {token: one / (sum(both.values()) + 1 - sum(p.values())) for token, one in both.items()}


def test_what_never_came_before_is_unknown() -> None:
    assert Laws().below([1, 2, 3]) is None


def test_one_law_is_doubted_a_little() -> None:
    share = 1 / (1 + DOUBT)
    found = known(told(([7], {5: 0.75, 6: 0.25})), [3, 7])
    assert found == pytest.approx(mixed((5, [(share, 0.75)]), (6, [(share, 0.25)])))
    assert found[5] / found[6] == pytest.approx(3.0)


def test_what_is_left_goes_to_the_shorter_end() -> None:
    longer = 1 / (1 + DOUBT)
    shorter = (1 - longer) / (2 + DOUBT)
    found = known(told(([1, 7], {5: 1.0}), ([2, 7], {6: 1.0})), [1, 7])
    assert found == pytest.approx(mixed((5, [(longer, 1.0), (shorter, 1.0), (shorter, 0.0)]),
                                        (6, [(longer, 0.0), (shorter, 0.0), (shorter, 1.0)])))


def test_what_a_law_does_not_say_goes_to_the_shorter_end_too() -> None:
    longer = 1 / (1 + DOUBT)
    shorter = (1 - 0.5 * longer) / (2 + DOUBT)
    found = known(told(([1, 7], {5: 0.5}), ([2, 7], {6: 1.0})), [1, 7])
    assert found == pytest.approx(mixed((5, [(longer, 0.5), (shorter, 0.5), (shorter, 0.0)]),
                                        (6, [(longer, 0.0), (shorter, 0.0), (shorter, 1.0)])))


def test_of_two_tokens_that_are_equal_on_average_the_one_that_laws_agree_on_is_likelier() -> None:
    found = known(told(([7], {5: 0.5, 6: 0.05}), ([7], {5: 0.5, 6: 0.95})), [7])
    assert found[5] > found[6] > 0


def test_the_last_laws_of_a_run_are_kept() -> None:
    laws = told(([7], {1: 1.0}), *(([7], {2: 1.0}) for _ in range(KEPT)))
    assert set(known(laws, [7])) == {2}


def test_the_oldest_runs_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "REMEMBERED", 2)
    laws = told(([1], {5: 1.0}), ([2], {5: 1.0}), ([1], {5: 1.0}), ([3], {5: 1.0}))
    assert [token for token in (1, 2, 3) if laws.below([token]) is not None] == [1, 3]


@given(st.lists(st.tuples(few, halves), max_size=12), few)
def test_it_is_less_than_a_law(lessons: list[tuple[list[int], list[float]]], before: list[int]) -> None:
    laws = told(*((run, dict(enumerate(p))) for run, p in lessons))
    assert 0.0 <= sum(known(laws, before).values()) <= 1.0
