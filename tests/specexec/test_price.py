"""What passes cost that wait for their weights: where the waiting ends is known before it was tried."""

import numpy as np
import pytest

from specexec.price import Price

STREAM = 9.7


def work(n: int) -> float:
    return 1.4 + 0.24 * n


def waited(n: int) -> float:
    return max(0.0, STREAM - work(n))


def learnt(counts: list[int], stream: float = STREAM, price: Price | None = None) -> Price:
    price = price or Price()
    for n in counts:
        price = price.measured([n], [max(stream, work(n))], [max(0.0, stream - work(n))])
    return price


def test_few_passes_tell_where_more_tokens_begin_to_cost() -> None:
    price = learnt([12, 20, 24])
    assert price.seconds([1, 28]) == pytest.approx([STREAM, STREAM], rel=0.02)
    assert price.seconds([64])[0] == pytest.approx(work(64), rel=0.25)


def test_without_the_waits_that_is_unknown() -> None:
    price = Price()
    for n in (12, 20, 24):
        price = price.measured([n], [max(STREAM, work(n))])
    assert price.seconds([64])[0] < 0.8 * work(64)


def test_where_nothing_waits_it_is_the_work_alone() -> None:
    price = learnt([1, 8, 32], stream=0.0)
    assert price.floor == 0
    assert price.seconds([8])[0] == pytest.approx(work(8), rel=0.1)


def test_a_disk_that_becomes_faster_or_slower_is_followed() -> None:
    for now in (5.0, 15.0):
        assert learnt([8] * 30, now, learnt([8] * 10)).floor == pytest.approx(now, rel=0.1)


def test_one_pass_that_something_held_up_changes_little() -> None:
    before = learnt([8] * 10)
    after = before.measured([8], [5 * STREAM], [5 * STREAM - work(8)])
    assert after.floor < 1.05 * before.floor


def test_a_pass_without_waiting_bounds_what_others_may_have_to_wait() -> None:
    price = learnt([8] * 5).measured([8], [3.0], [0.0])
    assert price.floor == 3.0


def test_passes_at_once() -> None:
    counts = [1, 32, 64]
    price = Price().measured(counts, [max(STREAM, work(n)) for n in counts], [waited(n) for n in counts])
    assert price.seconds(counts) == pytest.approx([max(STREAM, work(n)) for n in counts], rel=0.1)
    assert (np.diff(price.seconds(np.arange(1, 500))) >= 0).all()
