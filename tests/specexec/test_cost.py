"""What passes cost, learnt from noisy passes."""

import numpy as np
import pytest

from specexec.cost import Curve
from specexec.online import Vector

COUNTS = np.array([1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128])
MACHINES = {
    "streamed": lambda n: np.maximum(9.7, 1.4 + 0.24 * n),
    "resident": lambda n: 0.004 + 0.0002 * n,
    "free": lambda n: 0.02 + 0.0 * n,
    "steps": lambda n: 0.3 * np.ceil(n / 32),
}


def learnt(of: "np.ufunc", seed: int, passes: int = 60, *, busy: float = 0.0) -> Curve:
    rng, curve = np.random.default_rng(seed), Curve()
    for n in rng.choice(COUNTS, passes):
        spoiled = 3.0 if rng.random() < busy else 1.0
        curve = curve.measured([int(n)], [float(of(n)) * spoiled * np.exp(0.05 * rng.normal())])
    return curve


def errors(curve: Curve, of: "np.ufunc") -> Vector:
    return np.abs(np.log(curve.seconds(COUNTS) / of(COUNTS)))


@pytest.mark.parametrize("name", MACHINES)
@pytest.mark.parametrize("seed", range(3))
def test_it_comes_to_what_passes_take(name: str, seed: int) -> None:
    assert errors(learnt(MACHINES[name], seed), MACHINES[name]).max() < 0.25
    assert errors(learnt(MACHINES[name], seed), MACHINES[name]).mean() < 0.08


@pytest.mark.parametrize("seed", range(3))
def test_now_and_then_a_neighbour_spoils_little(seed: int) -> None:
    assert errors(learnt(MACHINES["streamed"], seed, busy=0.1), MACHINES["streamed"]).mean() < 0.1


def test_it_follows_a_machine_that_changes() -> None:
    curve = learnt(MACHINES["resident"], 0)
    for n in np.random.default_rng(1).choice(COUNTS, 80):
        curve = curve.measured([int(n)], [3 * MACHINES["resident"](n)])
    assert curve.seconds([8])[0] == pytest.approx(3 * MACHINES["resident"](8), rel=0.15)


def test_a_slow_start_is_soon_forgotten() -> None:
    """Weights that had to be fetched first, say: nothing makes a pass faster than it is."""
    curve = Curve()
    for seconds in [0.2] * 5 + [0.01] * 4:
        curve = curve.measured([1], [seconds])
    assert curve.seconds([1])[0] == pytest.approx(0.01, rel=0.6)


def test_more_tokens_never_cost_less() -> None:
    curve = Curve().measured([8, 64], [1.0, 0.5])
    assert (np.diff(curve.seconds(np.arange(1, 1000))) >= 0).all()


def test_what_was_never_tried_is_hoped_to_be_cheap() -> None:
    curve = learnt(MACHINES["resident"], 0)
    near, far = (curve.seconds([n], hope=1.0)[0] / curve.seconds([n])[0] for n in (64, 4096))
    assert near > 0.9 > 0.5 > far


def test_some_passes_at_once_count_as_one_after_another() -> None:
    once = Curve().measured([1, 8, 64], [1.0, 1.1, 3.0])
    assert once.seconds([1, 8, 64]) == pytest.approx([1.0, 1.1, 3.0], rel=0.05)
