"""The likeliest picks of rows, by every instruction set's kernel and in plain torch, against what float64 says."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from specexec.drafters.belief import SMALLEST, TYPICAL_NOISE, scores
from specexec.drafters.corrections import NONE, NOTHING, added
from specexec.drafters.likely import WIDTH, Likely, Taste
from specexec.kernels.logits import Off, Ranking
from specexec.sampling import Sampling
from tests.kernels import PLAIN, threads

ROWS, LEFT = 3, (SMALLEST, TYPICAL_NOISE)


@pytest.fixture(scope="module", autouse=True)
def by_all(way: str) -> None:
    """Every test of this file is of all ways."""


def made(size: int, seed: int, most: int = 40) -> tuple[torch.Tensor, list[torch.Tensor], Off]:
    """(logits, noise, what they are off by: at some ids twice)"""
    source = torch.Generator().manual_seed(seed)
    x, noise = 3 * torch.randn(ROWS, size, generator=source), torch.rand(ROWS, size, generator=source)
    counts = torch.randint(0, most, (ROWS,), generator=source).tolist()
    ids = torch.randint(0, size, (sum(counts),), generator=source).numpy()
    off = torch.randn(sum(counts), generator=source).double().numpy()
    return x, [*-(-noise.clamp(1e-9, 1 - 1e-7).log()).log()], Off(np.cumsum([0, *counts]), ids, off)


cases = st.builds(made, st.one_of(st.sampled_from([1, 2, 31, 33, 2_048, 9_001]), st.integers(1, 5_000)), st.integers(0, 2**32))
tastes = st.sampled_from([(1.0, 1.0), (0.7, 1.4), (1.9, 0.0)])


def wanted(x: torch.Tensor, off: Off, temperature: float) -> torch.Tensor:
    z = x.double() / temperature
    for row, (start, end) in enumerate(pairwise(off.starts)):
        z[row].index_put_((torch.from_numpy(off.ids[start:end]),), torch.from_numpy(off.values[start:end]), accumulate=True)
    return z


@given(cases, tastes, st.sampled_from([0.0, 1.0, 0.6]), st.booleans(), st.integers(0, ROWS + 1))
def test_they_are_the_first_by_logits_and_noise(
    case: tuple[torch.Tensor, list[torch.Tensor], Off], ab: tuple[float, float], temperature: float, noisy: bool, keeps: int,
) -> None:
    x, noise, off = case
    before, sampling = x.clone(), Sampling(temperature=temperature)
    found = Taste(sampling, Ranking(noise if noisy else (), *ab, SMALLEST, TYPICAL_NOISE * noisy)).likely(x, off, keeps)
    z = wanted(x, off, sampling.divisor)
    ranked = ab[0] * z + ab[1] * torch.stack(noise) * noisy
    for row, one in enumerate(found.candidates):
        ids = torch.from_numpy(one.ids)
        best = ranked[row].topk(min(WIDTH, x.shape[1])).values
        torch.testing.assert_close(ranked[row, ids], best, rtol=1e-5, atol=1e-5)
        assert len(set(one.ids.tolist())) == len(one.ids)
        torch.testing.assert_close(torch.from_numpy(one.log_q), z[row].log_softmax(-1)[ids], rtol=1e-5, atol=1e-5)
        assert torch.equal(torch.from_numpy(one.noise).float(), noise[row][ids] * noisy)
        np.testing.assert_allclose(found.scores[row], scores(one, *ab), rtol=1e-6, atol=1e-6)
    assert torch.equal(x, before)
    check_kept(found, x / sampling.divisor, keeps)


def check_kept(found: Likely, rows: torch.Tensor, keeps: int) -> None:
    """Without what they are off by."""
    assert torch.equal(found.kept, rows[:keeps])
    own = torch.from_numpy(found.own[: len(found.kept)])
    torch.testing.assert_close(own, rows[:keeps].double().logsumexp(-1), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("size", [2_048, 50_257])
def test_a_row_s_are_the_same_beside_others_and_on_two_threads(size: int, way: str) -> None:
    if way == PLAIN:
        pytest.skip("torch's own sums may differ in their last bit")
    x, noise, off = made(size, 7)
    with threads(2):
        together = Taste(Sampling(), Ranking(noise, 0.9, 1.1, *LEFT)).likely(x, off, ROWS)
    for row, (start, end) in enumerate(pairwise(off.starts)):
        own = Off(np.array([0, end - start]), off.ids[start:end], off.values[start:end])
        alone = Taste(Sampling(), Ranking(noise[row : row + 1], 0.9, 1.1, *LEFT)).likely(x[row : row + 1], own, 1)
        for part in ("ids", "log_q", "noise"):
            assert np.array_equal(getattr(alone.candidates[0], part), getattr(together.candidates[row], part))
        assert alone.own[0] == together.own[row]


def test_of_few_finite_ones_there_are_no_others() -> None:
    x = torch.full((1, 100), -torch.inf)
    x[0, [3, 70]] = torch.tensor([1.0, 2.0])
    taste = Taste(Sampling(temperature=0.0), Ranking((), 1.0, 1.0, *LEFT))
    found = taste.likely(x, Off(np.zeros(2, np.int64), NONE, NOTHING), 0)
    assert found.candidates[0].ids.tolist() == [70, 3]
    assert np.exp(found.scores[0]) == pytest.approx(np.exp([2.0, 1.0]) / (np.exp(1.0) + np.exp(2.0)), rel=1e-4)


@pytest.mark.parametrize("sampling", [Sampling(top_k=3), Sampling(top_p=0.5), Sampling(min_p=0.2)], ids=str)
def test_what_the_filters_keep_out_is_not_likely(sampling: Sampling) -> None:
    x, noise, off = made(5_000, 2)
    found = Taste(sampling, Ranking(noise, 1.0, 1.0, *LEFT)).likely(x, off, 0)
    for row, one in zip(added(x, off), found.candidates, strict=True):
        p = row.softmax(-1).sort(descending=True)
        inside = p.indices[(p.values >= 0.2 * p.values[0]) if sampling.min_p else
                           (p.values.cumsum(0) - p.values < 0.5) if sampling.top_p < 1 else torch.arange(len(row)) < 3]
        assert {*one.ids.tolist()} <= {*inside.tolist()}
