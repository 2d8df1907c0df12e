"""The budget that finds itself, on machines that are played: seconds are what their formulas say."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest

from specexec.budget import Auto
from specexec.roles import Pass, Worth

Seconds = Callable[[int], float]
SLOW_DISK: Seconds = lambda n: max(10.0, 0.25 * n)  # noqa: E731
RESIDENT: Seconds = lambda n: 0.05 + 0.004 * n  # noqa: E731
BUS: Seconds = lambda n: max(1.0, 0.0005 * n)  # noqa: E731


@dataclass
class Played:
    """A pair whose i-th best node is accepted with chance first * ratio**i, on a machine where passes take `seconds`."""

    seconds: Seconds
    first: float = 0.8
    ratio: float = 0.9
    draft: float = 0.0  # seconds a pass, where anything is drafted
    most: int = 1024

    def __post_init__(self) -> None:
        self.chances = self.first * self.ratio ** np.arange(self.most)

    def tokens(self, nodes: int) -> float:
        return 1 + float(self.chances[:nodes].sum())

    def rate(self, nodes: int) -> float:
        return self.tokens(nodes) / (self.seconds(nodes + 1) + (self.draft if nodes else 0.0))

    @property
    def best(self) -> float:
        return max(map(self.rate, range(self.most + 1)))

    def pass_(self, auto: Auto, noise: float = 0.0) -> int:
        worth = auto.worth(0)
        nodes = worth.size(self.chances[: worth.budget])
        draft = self.draft if worth.budget else 0.0
        auto.learn(Pass(0, 1 + nodes, self.tokens(nodes), draft, self.seconds(1 + nodes) * np.exp(noise)))  # type: ignore[arg-type]
        return nodes


@pytest.mark.parametrize("seconds", [SLOW_DISK, RESIDENT, BUS], ids=["disk", "resident", "bus"])
@pytest.mark.parametrize("ratio", [0.6, 0.9, 0.99])
def test_it_comes_to_the_best_there_is(seconds: Seconds, ratio: float) -> None:
    played, auto, rng = Played(seconds, ratio=ratio), Auto(1024), np.random.default_rng(0)
    chosen = [played.pass_(auto, 0.05 * rng.normal()) for _ in range(60)]
    reached = sum(map(played.tokens, chosen[20:])) / sum(seconds(1 + nodes) for nodes in chosen[20:])
    assert reached >= 0.95 * played.best


def test_nothing_is_drafted_that_does_not_pay() -> None:
    played, auto = Played(lambda n: 0.1 * n, first=0.05), Auto(256)
    chosen = [played.pass_(auto) for _ in range(100)]
    assert sum(chosen[10:]) == 0


def test_where_nothing_pays_looks_become_rare_and_cheap() -> None:
    played, auto, spent = Played(lambda n: 0.1 * n, first=0.0, draft=0.002), Auto(256), 0
    for _ in range(500):
        worth = auto.worth(0)
        spent += bool(worth.budget)
        auto.learn(Pass(0, 1, 1, 0.002 if worth.budget else 0.0, 0.1))
    assert spent < 20
    assert played.best == played.rate(0)


def test_it_drafts_again_when_it_pays_again() -> None:
    auto = Auto(256)
    for _ in range(300):
        auto.learn(Pass(0, 1, 1, 0.0, 0.1))
    played = Played(lambda n: 0.1)
    assert any(played.pass_(auto) for _ in range(70))


@pytest.mark.parametrize(("seconds", "drafts"), [(0.02, True), (0.004, False)])
def test_passes_that_take_next_to_nothing_are_not_drafted_for(seconds: float, drafts: bool) -> None:
    played, auto = Played(lambda n: seconds, draft=0.0), Auto(64, least=0.005)
    chosen = [played.pass_(auto) for _ in range(20)]
    assert chosen[0]
    assert all(chosen[1:]) if drafts else not any(chosen[1:])


def test_a_first_tree_is_small_whatever_there_is_room_for() -> None:
    assert Auto(1024).worth(0).budget <= 32
    assert Auto(8).worth(0).budget == 8


def test_reading_a_prompt_is_no_decoding() -> None:
    auto = Auto(256)
    auto.learn(Pass(0, 1, 1, 0.0, 0.1))
    before = auto.rate
    auto.learn(Pass(5_000, 1, 1, 0.0, 60.0))
    assert auto.rate == pytest.approx(before, rel=0.05)


def asleep() -> Auto:
    auto = Auto(256)
    for _ in range(301):
        auto.learn(Pass(0, 1, 1, 0.0, 0.1))
    assert not auto.worth(0).budget
    return auto


def test_it_looks_at_once_where_the_text_has_changed() -> None:
    auto = asleep()
    auto.wake()
    played = Played(lambda n: 0.1, draft=0.05)
    assert all(played.pass_(auto) for _ in range(10))


def test_looks_at_a_changed_text_take_a_few_plain_passes_at_the_most() -> None:
    auto = asleep()
    auto.wake()
    assert 0.2 < auto.worth(0).spare <= 0.35
    for _ in range(3):
        auto.learn(Pass(0, 1, 1, 0.1, 0.1))
    assert auto.worth(0).spare < 0.02
    assert not auto.worth(0).budget


def test_who_is_awake_is_not_given_more() -> None:
    auto = Auto(256)
    auto.learn(Pass(0, 8, 3, 0.01, 0.1))
    auto.wake()
    assert auto.worth(0).spare == 0


def test_a_second_token_need_not_pay_alone_for_what_makes_the_next_ones_cheap() -> None:
    kinked, convex = np.array([1.0, 1.6, 1.65, 1.7, 1.75]), np.array([1.0, 1.1, 1.3, 1.6])
    assert Worth(4, 1.0, kinked).taken(np.array([])) == (0, pytest.approx(0.75 / 4))
    assert Worth(3, 1.0, convex).taken(np.array([0.9])) == (1, pytest.approx(0.2 * 1.9 / 1.1)), "the next one's own price"
    assert Worth(1, 1.0, kinked[:2]).taken(np.array([0.9])) == (1, 0.0)
