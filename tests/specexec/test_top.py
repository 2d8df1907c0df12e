"""The largest entries of long rows, by every instruction set's kernel and in plain torch."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from specexec.kernels.logits import First
from specexec.top import best, ordered, top, winner
from tests.kernels import PLAIN, threads

SIZES = [1, 2, 63, 64, 65, 130, 1_000, 1_025, 2_049, 5_000, 9_000, 50_257]


@pytest.fixture(scope="module", autouse=True)
def by_all(way: str) -> None:
    """Every test of this file is of all ways."""


def rows(size: int, seed: int, *, levels: int = 0, finite: float = 1.0) -> torch.Tensor:
    """fp32[3, size]: of so many distinct values where `levels` is given; the share `finite` is above -inf."""
    source = torch.Generator().manual_seed(seed)
    x = torch.randn(3, size, generator=source)
    if levels:
        x = (x * levels / 4).round()
    return x.masked_fill(torch.rand(3, size, generator=source) > finite, -torch.inf)


sizes = st.one_of(st.sampled_from(SIZES), st.integers(1, 12_000))
many = st.builds(rows, sizes, st.integers(0, 2**32), levels=st.sampled_from([0, 1, 4, 40]), finite=st.sampled_from([1.0, 0.5]))


def first_best(row: torch.Tensor) -> int:
    return int((row == row.max()).nonzero()[0])


@given(many)
def test_the_winner_is_the_lowest_id_of_the_largest_value(x: torch.Tensor) -> None:
    assert winner(x).token == [first_best(row) for row in x]


@given(many)
def test_the_lead_is_the_distance_to_the_second_largest(x: torch.Tensor) -> None:
    for row, lead in zip(x, winner(x).lead, strict=True):
        ranked = row.sort(descending=True).values
        if ranked[0].isfinite():
            assert lead == (float(ranked[0] - ranked[1]) if len(ranked) > 1 else torch.inf)


@given(many)
def test_a_row_alone_is_as_one_of_several(x: torch.Tensor) -> None:
    x[:, 0] = 0.0  # something is finite
    alone = [winner(row[None]) for row in x]
    assert winner(x) == ([one.token[0] for one in alone], [one.lead[0] for one in alone])


@given(many)
def test_rows_one_after_another_have_the_same_winners(x: torch.Tensor) -> None:
    x[:, 0] = 0.0
    if ordered(x):
        first, wanted = First(x.shape[-1]), winner(x)
        assert [first(row[None]) for row in x] == list(zip(*wanted, strict=True))


@given(many)
def test_rows_whose_best_are_known_have_the_same_winner(x: torch.Tensor) -> None:
    x[:, 0] = 0.0
    assert winner(x, (), best(x, 32)) == winner(x)


@pytest.mark.parametrize("size", SIZES)
def test_where_all_are_equal_token_0_wins_by_nothing(size: int) -> None:
    assert winner(torch.ones(2, size)) == ([0] * 2, [0.0 if size > 1 else torch.inf] * 2)


@pytest.mark.parametrize(("one", "other"), [(3, 40), (3, 64), (63, 64), (130, 8_999), (64, 8_999)])
def test_a_tie_within_or_across_blocks_goes_to_the_lowest_id(one: int, other: int) -> None:
    x = torch.randn(2, 9_000, generator=torch.Generator().manual_seed(0))
    x[:, [one, other]] = 9.0
    assert winner(x) == ([one] * 2, [0.0] * 2)


@pytest.mark.parametrize("place", [0, 63, 64, 8_959, 8_960, 8_999])
def test_a_lone_finite_entry_wins_wherever_it_stands(place: int) -> None:
    x = torch.full((2, 9_000), -torch.inf)
    x[:, place] = -3.0
    assert winner(x) == ([place] * 2, [torch.inf] * 2)


def noise_of(x: torch.Tensor, seed: int = 0) -> list[torch.Tensor]:
    source = torch.Generator().manual_seed(seed)
    return [-(-torch.rand(x.shape[1], generator=source).clamp(min=1e-9).log()).log() for _ in x]


@given(many)
def test_with_noise_it_is_the_argmax_of_their_sum(x: torch.Tensor) -> None:
    x[:, 0] = 0.0  # something is finite
    noise = noise_of(x)
    assert winner(x, noise) == winner(x + torch.stack(noise))


@given(many, st.sampled_from([1, 2, 32, 128]), st.sampled_from([(1.0, 1.0), (0.8, 1.3), (1.7, 0.0)]), st.booleans())
def test_the_best_are_those_of_the_weighted_sum(x: torch.Tensor, k: int, ab: tuple[float, float], noisy: bool) -> None:
    x[:, 0] = 0.0
    noise = noise_of(x) if noisy else []
    values, ids, total = best(x, k, noise, *ab)
    ranked = ab[0] * x.double() + ab[1] * torch.stack(noise).double() if noisy else x.double()
    torch.testing.assert_close(values.double(), ranked.topk(min(k, x.shape[1])).values, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(ranked.gather(1, ids), values.double(), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(total.double(), x.double().logsumexp(-1), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("size", [2_049, 50_257])
def test_a_row_s_best_are_the_same_beside_others_and_on_two_threads(size: int, way: str) -> None:
    if way == PLAIN:
        pytest.skip("torch's own sums may differ in their last bit")
    x, noise = rows(size, 3)[:2], noise_of(rows(size, 3)[:2])
    with threads(2):
        together = best(x, 32, noise, 0.9, 1.1)
    for row in range(2):
        alone = best(x[row : row + 1], 32, noise[row : row + 1], 0.9, 1.1)
        assert all(torch.equal(one[row], other[0]) for one, other in zip(together, alone, strict=True))


@pytest.mark.parametrize("place", [0, 70, 4_999])
def test_what_is_no_number_is_never_among_the_best(place: int, way: str) -> None:
    if way == PLAIN:
        pytest.skip("torch has it first")
    x = rows(5_000, 4)
    x[:, place] = torch.nan
    for k in (1, 32, 128):
        assert torch.equal(top(x, k)[0], x.nan_to_num(nan=-torch.inf).topk(k).values)


@given(many, st.sampled_from([1, 2, 32, 100, 1_024]))
def test_top_finds_the_values_of_torch_topk(x: torch.Tensor, k: int) -> None:
    values, ids = top(x, k)
    assert torch.equal(values, x.topk(min(k, x.shape[-1]), dim=-1).values)
    finite = values.isfinite()
    assert torch.equal(x.gather(1, ids.clamp(max=x.shape[-1] - 1))[finite], values[finite])


@given(many, st.sampled_from([1, 2, 32, 100]))
def test_top_names_every_id_once(x: torch.Tensor, k: int) -> None:
    for ids in top(x, k)[1].tolist():
        assert len(set(ids)) == len(ids)


@pytest.mark.parametrize("finite", [0, 1, 5, 31])
@pytest.mark.parametrize("size", [2_049, 5_000, 9_000, 50_257])
def test_top_names_only_ids_of_the_row_though_fewer_than_k_are_finite(size: int, finite: int) -> None:
    x = torch.full((2, size), -torch.inf)
    x[:, size - 1 - finite : size - 1] = 1.0
    assert int(top(x, 32)[1].max()) < size


def test_top_of_a_very_long_row() -> None:
    x = rows(262_145, 1)
    values, ids = top(x, 1_024)
    assert torch.equal(values, x.topk(1_024).values)
    assert torch.equal(x.gather(1, ids), values)


def test_all_of_the_best_in_one_block_are_found() -> None:
    x = torch.zeros(1, 5_000)
    x[0, 640:672] = torch.arange(1.0, 33.0)
    assert top(x, 32)[1].tolist() == [list(range(671, 639, -1))]
