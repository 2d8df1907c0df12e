"""Laws of the target, remembered by the tokens they came after."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from specexec.drafters import laws as memory
from specexec.drafters.laws import DOUBT, KEPT, Laws

few = st.lists(st.integers(0, 2), min_size=1, max_size=3)
halves = st.lists(st.floats(0.0, 0.5), min_size=2, max_size=2)


def known(laws: Laws, before: Sequence[int]) -> dict[int, float]:
    found = laws.below(before)
    return {} if found is None else dict(zip(found[0].tolist(), found[1].tolist(), strict=True))


def told(*lessons: tuple[Sequence[int], dict[int, float]]) -> Laws:
    laws = Laws()
    for before, p in lessons:
        laws.learn(before, list(p), np.array(list(p.values())))
    return laws


def test_what_never_came_before_is_unknown() -> None:
    assert Laws().below([1, 2, 3]) is None


def test_one_law_is_doubted_a_little() -> None:
    found = known(told(([7], {5: 0.75, 6: 0.25})), [3, 7])
    assert found == pytest.approx({5: 0.75 / (1 + DOUBT), 6: 0.25 / (1 + DOUBT)})


def test_what_is_left_goes_to_the_shorter_end() -> None:
    found = known(told(([1, 7], {5: 1.0}), ([2, 7], {6: 1.0})), [1, 7])
    left = 1 - 1 / (1 + DOUBT)
    assert found == pytest.approx({5: 1 / (1 + DOUBT) + left / (2 + DOUBT), 6: left / (2 + DOUBT)})


def test_what_a_law_does_not_say_goes_to_the_shorter_end_too() -> None:
    found = known(told(([1, 7], {5: 0.5}), ([2, 7], {6: 1.0})), [1, 7])
    assert found[6] == pytest.approx((1 - 0.5 / (1 + DOUBT)) / (2 + DOUBT))


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
