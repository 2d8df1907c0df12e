"""Drafting while a pass waits: it changes the time, and nothing else."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch

from specexec.drafters.belief import Candidates
from specexec.drafters.evaluated import Evaluated, Row
from specexec.drafters.grow import Grow
from specexec.sampling import Sampling
from specexec.tree import ROOT
from tests.specexec.test_decode import ToyEngine, answer_of, model_drafter, steps, table


class Disk:
    """Implements Idle: every pass waits for some seconds, and lets them be filled."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self.filled_times = seconds, 0

    @contextmanager
    def filled(self, work: Callable[[float], bool]) -> Iterator[None]:
        while work(self.seconds):
            self.filled_times += 1
        yield


def written(drafter: Grow, temperature: float, seed: int) -> list[int]:
    answer = answer_of(80)
    steps(ToyEngine(table(3)), drafter, answer, Sampling(temperature), seed=seed, budget=6)
    return answer.ids


def waiting(model: ToyEngine, disk: Disk) -> Grow:
    drafter = model_drafter(model)
    drafter.idle = disk
    return drafter


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("seed", range(3))
def test_the_text_is_the_same(temperature: float, seed: int) -> None:
    disk = Disk(10.0)
    draft = ToyEngine(table(3) + 0.5 * table(4))
    assert written(waiting(draft, disk), temperature, seed) == written(model_drafter(draft), temperature, seed)
    assert disk.filled_times > 10


def test_what_was_drafted_ahead_is_not_drafted_again() -> None:
    draft = ToyEngine(table(3) + 0.5 * table(4))
    written(waiting(draft, Disk(10.0)), 1.0, 0)
    fresh = [first for before, (tokens, _, first) in zip(draft.calls, draft.calls[1:], strict=False) if tokens != before[0]]
    assert sum(first > 0 for first in fresh) > len(fresh) / 8, "a tree began with rows of the one before"


def test_where_nothing_waits_nothing_is_drafted_ahead() -> None:
    disk = Disk(0.0)
    written(waiting(ToyEngine(table(3)), disk), 1.0, 0)
    assert disk.filled_times == 0


def row(token: int, parent: int) -> Row:
    nothing = torch.zeros(1).numpy()
    return Row(token, parent, Candidates(torch.arange(1).numpy(), nothing, nothing), nothing, (), None, 0.0)


def test_what_hangs_below_a_path_is_kept_in_order() -> None:
    found = Evaluated([row(7, ROOT), row(1, 0), row(2, 0), row(3, 2), row(4, 1), row(5, 3), row(6, 2)]).below([2])
    assert [(one.token, one.parent) for one in found.rows] == [(2, ROOT), (3, 0), (5, 1), (6, 0)]
    assert len(Evaluated([row(7, ROOT)]).below([1])) == 0
    assert len(Evaluated().below([])) == 0
