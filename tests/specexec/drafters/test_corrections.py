"""A draft's errors come back where the same tokens come again."""

import numpy as np
import pytest
import torch

from specexec.drafters import corrections
from specexec.drafters.corrections import LARGEST, ORDERS, Corrections, added
from specexec.drafters.grow import Grow
from specexec.drafters.model import ModelExpander
from specexec.noise import Noise
from specexec.roles import Limits, Reader, Worth
from specexec.sampling import Penalties, Sampling
from specexec.tree import DraftTree
from specexec.verify import Picks, verify
from specexec.vocabulary import Vocabulary

SIZE = 6
AGREEING = [((7, 8, 9), (3, 2, 1)), ((0, 8, 9), (2, 1)), ((0, 0, 9), (1,)), ((9,), (1,)), ((8,), ())]
SHARES = dict(ORDERS)


def taught(*before: tuple[int, ...]) -> Corrections:
    made = Corrections()
    for tokens in before:
        made.learn(tokens, np.array([2, 4]), np.array([1.0, -0.5]))
    return made


def put_right(rows: torch.Tensor, made: Corrections, *before: tuple[int, ...], temperature: float = 1.0) -> torch.Tensor:
    return added(rows, made.off(before, temperature))


@pytest.mark.parametrize(("before", "lengths"), AGREEING)
def test_as_much_is_added_as_tokens_agree(before: tuple[int, ...], lengths: tuple[int, ...]) -> None:
    share = sum(SHARES[length] for length in lengths)
    found = put_right(torch.zeros(2, SIZE), taught((7, 8, 9)), (1, 1, 1), before)
    assert found[0].tolist() == [0.0] * SIZE
    assert found[1].tolist() == pytest.approx([0, 0, share, 0, -share / 2, 0])


def test_an_error_weighs_more_where_the_temperature_is_low() -> None:
    assert put_right(torch.zeros(1, SIZE), taught((9,)), (9,), temperature=0.5)[0, 2] == pytest.approx(2 * SHARES[1])


def test_rows_stay_as_they_were() -> None:
    rows = torch.zeros(1, SIZE)
    put_right(rows, taught((9,)), (9,))
    assert not rows.any()


def test_no_error_is_taken_for_more_than_the_largest() -> None:
    made = Corrections()
    made.learn((9,), np.array([0, 1]), np.array([50.0, -50.0]))
    found = put_right(torch.zeros(1, SIZE), made, (9,))[0]
    assert found[:2].tolist() == pytest.approx([SHARES[1] * LARGEST, -SHARES[1] * LARGEST])


def test_the_oldest_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corrections, "REMEMBERED", 2)
    made = taught((1,), (2,), (1,), (3,))
    assert [bool(len(made.off([(token,)]).ids)) for token in (1, 2, 3)] == [True, False, True]


class Row:
    """Implements Engine: the same logits everywhere."""

    def __init__(self, row: torch.Tensor) -> None:
        self.row, self.limits = row, Limits(1_000, 1_000, len(row))

    waited = 0.0

    @property
    def missing(self) -> int:
        return 0

    def sync(self, tokens: object) -> None:
        """The context is no matter."""

    def forward(self, tree: DraftTree, reader: Reader, first: int = 0) -> None:
        reader(first, self.row.expand(len(tree) - first, -1))


@pytest.mark.parametrize("temperature", [0.0, 0.5, 1.0])
def test_a_draft_that_is_always_wrong_is_put_right(temperature: float) -> None:
    """The target's favourite is the draft's second, less than half a nat behind: too little for a and b to mend."""
    draft, target = Row(torch.tensor([1.0, 0.6, -9.0, -9.0])), Row(torch.tensor([0.0, 4.0, -9.0, -9.0]))
    drafter, sampling = Grow([ModelExpander(draft, Vocabulary(None))], 1_000), Sampling(temperature=temperature)
    noise, context, found = Noise(0, 0, 1, 4, temperature == 0), [0, 1, 1, 1, 1], []
    for _ in range(3):
        tree = drafter.draft(context, Worth(1), sampling, noise)
        picks = Picks(tree, len(context) - 1, sampling, noise, Penalties(sampling, [], []))
        target.forward(tree, picks)
        drafter.learn(tree, picks, verify(tree, picks))
        found.append(tree.tokens[1] == picks.tokens[0])
    assert found[-1]
    if temperature == 0:
        assert not found[0]
