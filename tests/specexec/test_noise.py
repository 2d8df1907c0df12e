"""The noise every sampler and drafter of one answer shares."""

import warnings

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from specexec.noise import KEPT, Noise, _logarithm, gumbel
from tests.kernels import SETS, plainly, threads, using
from tests.surprise import g_test

KOLMOGOROV = 1.95  # what the largest gap, times the root of the number of values, exceeds one time in a thousand

seeds = st.integers(0, 2**64 - 1)
counts = st.integers(0, 2**40)


def test_values_are_gumbel_distributed() -> None:
    values = np.sort(np.concatenate([gumbel(5, 1, index, 2_000).numpy() for index in range(20)]).astype(np.float64))
    below, n = np.exp(-np.exp(-values)), len(values)
    apart = max((np.arange(1, n + 1) / n - below).max(), (below - np.arange(n) / n).max())
    assert apart * n**0.5 < KOLMOGOROV


def test_mean_and_variance_are_those_of_a_gumbel_variable() -> None:
    values = gumbel(1, 2, 3, 200_000).double()
    assert float(values.mean()) == pytest.approx(np.euler_gamma, abs=0.015)
    assert float(values.var()) == pytest.approx(np.pi**2 / 6, abs=0.04)


def test_the_argmax_of_noisy_logits_samples_their_softmax() -> None:
    p = np.array([0.5, 0.3, 0.15, 0.05])
    noise = np.stack([gumbel(9, 0, index, 4).numpy() for index in range(8_000)])
    counts = np.bincount((np.log(p) + noise).argmax(-1), minlength=4)
    assert g_test(counts, 8_000 * p) > 1e-3


@pytest.mark.parametrize("others", [(5, 1, 8), (5, 2, 7), (6, 1, 7)])
def test_seed_answer_and_index_each_give_uncorrelated_noise(others: tuple[int, int, int]) -> None:
    pair = np.stack([gumbel(5, 1, 7, 20_000).numpy(), gumbel(*others, 20_000).numpy()])
    assert abs(np.corrcoef(pair)[0, 1]) < 0.03


@given(seeds, counts, counts, st.integers(1, 300), st.integers(1, 300))
def test_a_row_does_not_depend_on_the_size(seed: int, answer: int, index: int, size: int, more: int) -> None:
    assert torch.equal(gumbel(seed, answer, index, size + more)[:size], gumbel(seed, answer, index, size))


@given(seeds, counts, counts)
def test_every_value_is_finite(seed: int, answer: int, index: int) -> None:
    assert gumbel(seed, answer, index, 500).isfinite().all()


@given(st.tuples(seeds, counts, counts), st.tuples(seeds, counts, counts))
def test_different_seeds_answers_or_indices_give_different_noise(
    one: tuple[int, int, int], other: tuple[int, int, int]
) -> None:
    assert torch.equal(gumbel(*one, 4), gumbel(*other, 4)) == (one == other)


@pytest.mark.parametrize(("one", "other"), [(0, 1), (2**62, 2**62 + 1), (2**63, 2**63 + 1), (0, -1), (2**64 - 1, 2**64 - 2)])
def test_neighbouring_seeds_differ_however_large(one: int, other: int) -> None:
    assert not torch.equal(gumbel(one, 0, 0, 4), gumbel(other, 0, 0, 4))


def test_the_largest_seed_raises_no_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gumbel(2**64 - 1, 0, 0, 1)


@pytest.mark.parametrize(("place", "expected"), [
    ((0, 0, 0), [-1.4954515695571899, -0.3511371314525604, -0.7859067916870117, 0.5586754679679871]),
    ((0, 0, 1), [0.8195706605911255, -1.0138800144195557, -0.7502702474594116, -0.07983053475618362]),
    ((0, 1, 0), [-0.06990866363048553, 0.5964654684066772, -0.8943949341773987, 0.7912161350250244]),
    ((1, 0, 0), [-0.1757580041885376, 1.807649850845337, -0.6189814805984497, -1.2442526817321777]),
])
def test_values_never_change_between_versions(place: tuple[int, int, int], expected: list[float]) -> None:
    torch.testing.assert_close(gumbel(*place, 4), torch.tensor(expected), rtol=0, atol=1e-6)


@pytest.mark.parametrize("isa", SETS)
@given(seeds, seeds, seeds, st.integers(1, 3_000))
def test_every_instruction_set_makes_the_same_bits(isa: str, seed: int, answer: int, index: int, size: int) -> None:
    with using(isa):
        ours = gumbel(seed, answer, index, size)
    assert torch.equal(ours, without_kernels(seed, answer, index, size))


@pytest.mark.parametrize("isa", SETS)
def test_a_large_vocabulary_has_the_same_bits_on_several_threads(isa: str) -> None:
    with using(isa), threads(3):
        assert torch.equal(gumbel(2**64 - 1, 7, 9, 151_936), without_kernels(2**64 - 1, 7, 9, 151_936))


def without_kernels(*place: int) -> torch.Tensor:
    with plainly():
        return gumbel(*place)


def test_a_logarithm_is_that_of_mathematics() -> None:
    source = np.random.default_rng(1)
    small = 2.0 ** -np.arange(1, 54)
    x = np.concatenate([source.random(100_000), source.exponential(size=100_000), 1 - small, small, [0.5**0.5]])
    np.testing.assert_allclose(_logarithm(x), np.log(x), rtol=4e-16, atol=0)


def test_the_noise_of_a_position_is_that_of_the_index_within_the_answer() -> None:
    noise = Noise(seed=3, answer=2, origin=10, size=8)
    assert torch.equal(noise.at(10), gumbel(3, 2, 0, 8))
    assert torch.equal(noise.at(17), gumbel(3, 2, 7, 8))


def test_the_same_answer_after_a_longer_prompt_has_the_same_noise() -> None:
    assert torch.equal(Noise(3, 2, 10, 8).at(12), Noise(3, 2, 1_000, 8).at(1_002))


def test_noise_asked_for_again_is_the_same_though_it_was_forgotten() -> None:
    noise = Noise(3, 2, 0, 8)
    first = noise.at(0).clone()
    for position in range(2 * KEPT):
        noise.at(position)
    assert torch.equal(noise.at(0), first)


@given(st.integers(0, 1_000))
def test_silent_noise_is_zero(position: int) -> None:
    assert torch.equal(Noise(3, 2, 0, 8, silent=True).at(position), torch.zeros(8))
