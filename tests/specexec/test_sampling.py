"""Filters, temperature and penalties against slow references, and how near a filter came to another pick."""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import assume, example, given
from hypothesis import strategies as st

from specexec.noise import Noise
from specexec.sampling import Penalties, Sampling, cut, scale
from specexec.tree import ROOT, DraftTree
from specexec.verify import Picks

Row = npt.NDArray[np.float64]
TINY = 1e-5  # a margin that tells of a close call
NEAR = 2e-5  # a border that float32 may cross


def softmax(x: Row) -> Row:
    p = np.exp(x - x.max())
    return p / p.sum()


def allowed(logits: Sequence[float], sampling: Sampling, nudge: float = 0.0) -> list[int]:
    """The ids that may be picked: top-k, then top-p of what is left, then min-p; ties at a border stay in.

    nudge: added to top-p, and to each entry's distance from min-p's floor.
    """
    x = np.array(logits, dtype=np.float64) / (sampling.temperature or 1.0)
    kept = np.ones(len(x), dtype=bool)
    if sampling.top_k:
        kept &= x >= np.sort(x)[::-1][: sampling.top_k][-1]
    p = np.where(kept, softmax(np.where(kept, x, -np.inf)), 0.0)
    if sampling.top_p < 1:
        order = np.argsort(-x, kind="stable")
        before = np.concatenate(([0.0], p[order].cumsum()[:-1]))
        inside = order[(before < sampling.top_p + nudge) & kept[order]]
        kept &= x >= x[inside].min()
    if sampling.min_p:
        kept &= x - x.max() - math.log(sampling.min_p) >= -nudge - 1e-9
    return [int(i) for i in np.flatnonzero(kept)]


def found(logits: Sequence[float], sampling: Sampling) -> list[int]:
    """The ids that our filters let in."""
    x = scale(torch.tensor([list(logits)]), sampling)
    filtered = cut(x, sampling)
    if filtered is None:
        return list(range(len(logits)))
    return [int(i) for i in (x[0] >= filtered.threshold[0]).nonzero()]


def clear(logits: Sequence[float], sampling: Sampling, near: float = NEAR) -> bool:
    """Whether no border is so near that float32 may decide otherwise."""
    return allowed(logits, sampling, near) == allowed(logits, sampling, -near)


class Known(Noise):
    """Implements Noise with given values at every position."""

    def __init__(self, values: Sequence[float]) -> None:
        super().__init__(0, 0, 0, len(values))
        self.values = torch.tensor(list(values))

    def at(self, position: int) -> torch.Tensor:
        return self.values


def pick(logits: Sequence[float], noise: Sequence[float], sampling: Sampling) -> tuple[int, float]:
    """(token, margin) at a lone root."""
    picks = Picks(DraftTree((0,)), 0, sampling, Known(noise), Penalties(sampling, [0], []))
    picks(0, torch.tensor([list(logits)]))
    return picks.tokens[0], picks.margins[0]


def logs(*p: float) -> list[float]:
    return [math.log(value) for value in p]


samplings = st.builds(
    Sampling, temperature=st.sampled_from([0.3, 0.8, 1.0, 1.7]), top_k=st.sampled_from([0, 0, 1, 2, 5, 100]),
    top_p=st.sampled_from([1.0, 1.0, 0.05, 0.3, 0.8, 0.95, 0.999]), min_p=st.sampled_from([0.0, 0.0, 0.02, 0.2, 1.0]))
values = st.one_of(st.floats(-8, 8, width=32), st.integers(-3, 3).map(float))  # the second make ties


@given(st.lists(values, min_size=1, max_size=20), samplings)
def test_filters_let_in_what_the_reference_lets_in(logits: list[float], sampling: Sampling) -> None:
    assume(clear(logits, sampling))
    assert found(logits, sampling) == allowed(logits, sampling)


@given(st.integers(0, 2**32), st.sampled_from([65, 1_030, 3_000]), samplings)
def test_filters_of_longer_rows_let_in_what_the_reference_lets_in(seed: int, size: int, sampling: Sampling) -> None:
    logits = (3 * torch.randn(size, generator=torch.Generator().manual_seed(seed))).tolist()
    assume(clear(logits, sampling))
    assert found(logits, sampling) == allowed(logits, sampling)


@pytest.mark.parametrize(("top_p", "kept"), [(0.5, [0]), (0.65, [0, 1]), (0.85, [0, 1]), (0.95, [0, 1, 2])])
def test_top_p_cuts_the_tail_of_three_tokens(top_p: float, kept: list[int]) -> None:
    assert found(logs(0.6, 0.3, 0.1), Sampling(top_p=top_p)) == kept


@pytest.mark.parametrize("top_p", [0.01, 0.05, 0.9])
def test_the_head_survives_top_p_though_its_probability_is_small(top_p: float) -> None:
    assert 0 in found(logs(0.1, *[0.9 / 30] * 30), Sampling(top_p=top_p))


def test_a_small_top_p_leaves_the_head_alone() -> None:
    assert found(logs(0.08, *[0.92 / 40] * 40), Sampling(top_p=0.05)) == [0]


def test_top_p_looks_at_what_top_k_left() -> None:
    assert found(logs(0.4, 0.3, 0.2, 0.1), Sampling(top_k=2, top_p=0.5)) == [0]  # 0.4 of 0.7 is more than a half
    assert found(logs(0.4, 0.3, 0.2, 0.1), Sampling(top_p=0.5)) == [0, 1]


def test_min_p_is_a_share_of_the_largest() -> None:
    assert found(logs(0.5, 0.3, 0.15, 0.05), Sampling(min_p=0.25)) == [0, 1, 2]


def test_the_temperature_comes_before_the_filters() -> None:
    row = logs(0.5, 0.3, 0.2)
    assert found(row, Sampling(temperature=0.2, top_p=0.8)) == [0]
    assert found(row, Sampling(temperature=5.0, top_p=0.8)) == [0, 1, 2]


def test_ties_at_a_border_stay_in() -> None:
    assert found([1.0, 0.0, 0.0, -1.0], Sampling(top_k=2)) == [0, 1, 2]
    assert found(logs(0.4, 0.25, 0.25, 0.1), Sampling(top_p=0.5)) == [0, 1, 2]


def test_greedy_and_unset_filters_filter_nothing() -> None:
    x = torch.randn(1, 9)
    assert cut(x, Sampling(temperature=0.0, top_k=1, top_p=0.1)) is None
    assert cut(x, Sampling()) is None


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_logits_are_unscaled_where_the_pick_is_greedy_or_the_temperature_1(temperature: float) -> None:
    x = torch.randn(2, 9)
    assert torch.equal(scale(x, Sampling(temperature=temperature)), x)


def test_logits_are_divided_by_the_temperature() -> None:
    x = torch.randn(2, 9)
    torch.testing.assert_close(scale(x, Sampling(temperature=0.5)), 2 * x)


FLAT = (0.1 * torch.randn(5_000, generator=torch.Generator().manual_seed(0))).tolist()


@pytest.mark.parametrize("sampling", [
    Sampling(top_p=0.9), Sampling(top_p=0.21), Sampling(top_k=1_500), Sampling(top_k=1_024), Sampling(top_k=4_999),
    Sampling(top_k=3_000, top_p=0.9), Sampling(min_p=0.9), Sampling(min_p=0.05), Sampling(top_p=0.9, min_p=0.8),
    Sampling(top_k=4_000, min_p=0.7), Sampling(temperature=1.5, top_k=4_500, top_p=0.95, min_p=0.6),
], ids=str)
def test_a_nucleus_larger_than_the_first_candidates_is_found_whole(sampling: Sampling) -> None:
    assert clear(FLAT, sampling, 4e-6)
    assert found(FLAT, sampling) == allowed(FLAT, sampling)


def test_each_row_is_filtered_by_itself() -> None:
    x = torch.tensor([logs(0.9, 0.06, 0.04), logs(0.34, 0.33, 0.33)])
    filtered = cut(x, Sampling(top_p=0.8))
    assert filtered is not None
    assert (x >= filtered.threshold).tolist() == [[True, False, False], [True, True, True]]


# Penalties

tokens = st.lists(st.integers(0, 9), max_size=12)
penalties = st.builds(
    Sampling, repeat_penalty=st.sampled_from([1.0, 1.1, 2.0]), presence_penalty=st.sampled_from([0.0, 0.7, -0.3]),
    frequency_penalty=st.sampled_from([0.0, 0.4, -0.2]))


def penalised(logits: Sequence[float], sampling: Sampling, prompt: Sequence[int], answer: Sequence[int]) -> list[float]:
    """Token by token, as the papers write it."""
    result = []
    for token, logit in enumerate(logits):
        value = logit
        if token in prompt or token in answer:
            value = value / sampling.repeat_penalty if value > 0 else value * sampling.repeat_penalty
        if token in answer:
            value -= sampling.presence_penalty + sampling.frequency_penalty * list(answer).count(token)
        result.append(value)
    return result


@given(penalties, st.lists(st.integers(0, 9), min_size=1, max_size=12), tokens, st.lists(tokens, min_size=1, max_size=3),
       st.integers(0, 99))
def test_penalties_are_functions_of_prompt_answer_and_path(
    sampling: Sampling, prompt: list[int], answer: list[int], paths: list[list[int]], seed: int
) -> None:
    logits = torch.randn(len(paths), 8, generator=torch.Generator().manual_seed(seed))  # ids 8 and 9 are padding
    expected = [penalised(row, sampling, prompt, answer + path) for row, path in zip(logits.tolist(), paths, strict=True)]
    before = logits.clone()
    torch.testing.assert_close(Penalties(sampling, prompt, answer).apply(logits, paths), torch.tensor(expected))
    assert torch.equal(logits, before)


def test_the_prompt_is_repetition_but_neither_presence_nor_frequency() -> None:
    row = torch.tensor([[2.0, -2.0, 1.0]])
    sampling = Sampling(repeat_penalty=2.0, presence_penalty=0.5, frequency_penalty=0.25)
    assert Penalties(sampling, [0, 1, 1], [2, 2]).apply(row, [[]]).tolist() == [[1.0, -4.0, -0.5]]


def test_each_node_is_penalised_for_its_own_path() -> None:
    sampling = Sampling(temperature=0.0, frequency_penalty=1.0)
    tree = DraftTree((0, 1, 2, 1), (ROOT, 0, 0, 1), (0.0,) * 4, ("test",) * 4)
    picks = Picks(tree, 3, sampling, Noise(0, 0, 3, 3, silent=True), Penalties(sampling, [0, 0], [2, 0]))
    picks(0, torch.tensor([[0.0, 1.5, 1.6]] * 4))
    assert picks.tokens == [1, 2, 1, 2]  # what was said: 2 | 2 1 | 2 2 | 2 1 1
    assert picks.margins == pytest.approx([0.9, 0.1, 1.9, 1.1])


# How near a filter came to another pick

OUT, IN = 1 - 1e-6, 1 + 1e-6


@pytest.mark.parametrize(("logits", "sampling"), [
    (logs(0.5, 0.3, 0.2), Sampling(top_p=0.8 * OUT)), (logs(0.5, 0.3, 0.2), Sampling(top_p=0.8 * IN)),
    (logs(0.5, 0.3, 0.3 * OUT), Sampling(top_k=2)), (logs(0.5, 0.3 * OUT, 0.3), Sampling(top_k=2)),
    (logs(0.5, 0.3, 0.2), Sampling(min_p=0.4 * IN)), (logs(0.5, 0.3, 0.2), Sampling(min_p=0.4 * OUT)),
], ids=["top-p, out", "top-p, in", "top-k, out", "top-k, in", "min-p, out", "min-p, in"])
class TestToken2AtTheBorder:
    def test_its_pick_is_a_close_call(self, logits: list[float], sampling: Sampling) -> None:
        assert pick(logits, [0.0, 0.0, 9.0], sampling)[1] < TINY

    def test_another_pick_is_none(self, logits: list[float], sampling: Sampling) -> None:
        token, margin = pick(logits, [9.0, 0.0, 0.0], sampling)
        assert token == 0
        assert margin > 0.1


@pytest.mark.parametrize(
    "sampling", [Sampling(top_p=0.65), Sampling(top_p=0.95), Sampling(top_k=2), Sampling(min_p=0.3)], ids=str)
@pytest.mark.parametrize("noise", [[9.0, 0.0, 0.0], [0.0, 9.0, 0.0], [0.0, 0.0, 9.0]])
def test_far_from_every_border_there_is_no_close_call(sampling: Sampling, noise: list[float]) -> None:
    assert pick(logs(0.5, 0.3, 0.2), noise, sampling)[1] > 0.04


@pytest.mark.parametrize("noise", [[0.0, 9.0, -9.0], [0.0, -9.0, 9.0], [0.0, 9.0, 9.0]])
def test_near_equals_on_both_sides_of_the_nucleus_border_are_a_close_call(noise: list[float]) -> None:
    assert pick(logs(0.4, 0.3, 0.3 * OUT), noise, Sampling(top_p=0.6))[1] < TINY


NUDGE = 1e-5
near = st.builds(lambda value, step: value + step * 5e-6, st.sampled_from([-2.0, -1.0, 0.0, 0.5]), st.integers(-1, 1))


@given(st.lists(near, min_size=3, max_size=6), st.integers(0, 2**32), samplings, st.integers(0, 4))
@example([0.5, 0.0, 0.0, -5e-6], 1, Sampling(top_p=0.3), 0)
def test_a_pick_that_rounding_can_change_is_a_close_call(
    logits: list[float], seed: int, sampling: Sampling, border: int
) -> None:
    p = np.sort(softmax(np.array(logits) / sampling.temperature))[::-1].cumsum()
    if border and p[border % len(p)] < 0.999:
        sampling = Sampling(sampling.temperature, top_p=float(p[border % len(p)]))
    rng = np.random.default_rng(seed)
    noise = rng.gumbel(size=len(logits)).tolist()
    token, margin = pick(logits, noise, sampling)
    for _ in range(5):
        nudged = (np.array(logits) + rng.uniform(-NUDGE, NUDGE, len(logits))).tolist()
        assert pick(nudged, noise, sampling)[0] == token or margin < 5 * NUDGE
