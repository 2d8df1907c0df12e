"""The thread that reads ahead: order, slots, errors, and passes that end early."""

import time

import pytest

from offload.reader import SURE, Reader


class Disk:
    """Fetches that note what lies where; slow, or failing, on demand."""

    def __init__(self, slots: int, seconds: float = 0.0) -> None:
        self.held: list[int | None] = [None] * slots
        self.fetched: list[int] = []
        self.seconds = seconds
        self.broken: set[int] = set()

    def fetch(self, index: int, slot: int) -> bool:
        time.sleep(self.seconds)
        if index in self.broken:
            raise OSError(5, "Input/output error")
        self.held[slot] = index
        self.fetched.append(index)
        return True


def take(reader: Reader, disk: Disk, index: int, use: float = 0.0) -> None:
    slot = reader.take(index)
    assert disk.held[slot] == index
    time.sleep(use)
    assert disk.held[slot] == index, "a slot in use was written"
    reader.release()


@pytest.mark.parametrize("slots", [1, 2, 3])
@pytest.mark.parametrize(("reading", "using"), [(0.0, 0.002), (0.002, 0.0), (0.0, 0.0)])
def test_every_layer_comes_in_its_turn_over_passes(slots: int, reading: float, using: float) -> None:
    disk = Disk(slots, reading)
    cycle = [1, 3, 4, 7]
    reader = Reader(cycle, slots, disk.fetch)
    for index in cycle * 3:
        take(reader, disk, index, using)
    assert disk.fetched[:12] == cycle * 3
    reader.close()


def test_it_reads_on_across_the_end_of_a_pass() -> None:
    disk = Disk(2)
    reader = Reader([0, 1, 2], 2, disk.fetch)
    for index in (0, 1, 2):
        take(reader, disk, index)
    deadline = time.monotonic() + 5
    while disk.fetched != [0, 1, 2, 0, 1] and time.monotonic() < deadline:
        time.sleep(0.001)
    assert disk.fetched == [0, 1, 2, 0, 1]
    reader.close()


def test_a_pass_that_ended_early_begins_anew() -> None:
    disk = Disk(2)
    reader = Reader([0, 1, 2, 3], 2, disk.fetch)
    for index in (0, 1, 0, 1, 2, 3, 0):
        take(reader, disk, index)
    reader.close()


def test_an_error_is_raised_where_its_layer_is_wanted_and_the_next_pass_tries_again() -> None:
    disk = Disk(2)
    disk.broken = {2}
    reader = Reader([0, 1, 2, 3], 2, disk.fetch)
    take(reader, disk, 0)
    take(reader, disk, 1)
    with pytest.raises(OSError, match="Input/output"):
        reader.take(2)
    disk.broken = set()
    for index in (0, 1, 2, 3):
        take(reader, disk, index)
    reader.close()


def test_a_layer_that_failed_is_read_again_when_it_is_asked_for_at_once() -> None:
    disk = Disk(2)
    disk.broken = {0}
    reader = Reader([0, 1], 2, disk.fetch)
    with pytest.raises(OSError, match="Input/output"):
        reader.take(0)
    disk.broken = set()
    take(reader, disk, 0)
    reader.close()


def test_a_layer_that_raises_in_use_gives_its_slot_back() -> None:
    disk = Disk(1)
    reader = Reader([0, 1], 1, disk.fetch)
    reader.take(0)
    reader.release()  # what the context manager does
    take(reader, disk, 1)
    reader.close()


def test_closing_does_not_wait_for_a_free_slot() -> None:
    disk = Disk(1)
    reader = Reader([0, 1], 1, disk.fetch)
    reader.take(0)
    began = time.monotonic()
    reader.close()
    assert time.monotonic() - began < 1


def test_a_wait_is_filled_with_work_until_it_is_over_or_nothing_is_left() -> None:
    disk, done = Disk(1, 0.3), list[int]()
    reader = Reader([0, 1], 1, disk.fetch)

    def work(seconds: float) -> bool:
        assert seconds == 0.0, "nobody knows yet what a read takes"
        done.append(len(disk.fetched))
        time.sleep(0.01)
        return len(done) % 10 != 0

    assert reader.take(0, work) == 0
    assert len(done) == 10, "the tenth had nothing left"
    assert reader.waited >= 0.25, "what was filled was waited for too"
    assert set(done) == {0}
    reader.release()
    reader.close()


def test_work_is_told_how_long_the_wait_will_be_and_what_it_takes_beyond_is_no_waiting() -> None:
    disk, told = Disk(1, 0.3), list[float]()
    reader = Reader([0, 1], 1, disk.fetch)
    take(reader, disk, 0)
    before = reader.waited

    def work(seconds: float) -> bool:
        told.append(seconds)
        time.sleep(0.1 if len(told) < 3 else 1.0)
        return True

    assert reader.take(1, work) == 0
    assert told == sorted(told, reverse=True)
    assert len(told) == 3, "the third took longer than the wait"
    assert told[0] == pytest.approx(SURE * 0.3, abs=0.1)
    assert told[2] == pytest.approx(SURE * 0.1, abs=0.1)
    assert reader.waited - before < 0.7
    reader.release()
    reader.close()


def test_what_is_there_is_taken_without_work() -> None:
    disk = Disk(2)
    reader = Reader([0, 1], 2, disk.fetch)
    take(reader, disk, 0)
    deadline = time.monotonic() + 5
    while len(disk.fetched) < 2 and time.monotonic() < deadline:
        time.sleep(0.001)
    assert reader.take(1, lambda seconds: pytest.fail("nothing is to be waited for")) == 1
    reader.release()
    reader.close()
