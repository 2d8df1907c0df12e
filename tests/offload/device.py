"""A device that does what it is asked late, in any order that its lanes and marks allow, and notices torn reads."""

import random
import threading
from collections import deque
from collections.abc import Callable, Mapping

import torch

from cli.engines import Making
from offload.lane import Device, Mark, Unlock
from offload.plan import SLOTS
from offload.store import Store

TORN = 0xEE  # what a buffer holds while a copy into it runs
CPU = torch.device("cpu")


class FakeMark:
    """Implements Mark. error: of the work since the lane's last mark."""

    def __init__(self, device: "FakeDevice") -> None:
        self.device, self.done, self.error = device, False, ""

    def synchronize(self) -> None:
        self.device.run_until(lambda: self.done)
        if self.error:
            raise RuntimeError(self.error)


class FakeLane:
    """Implements Lane. Its work is a queue of (may it begin, do it)."""

    def __init__(self, device: "FakeDevice") -> None:
        self.device, self.error = device, ""
        self.queue: deque[tuple[Callable[[], bool], Callable[[], object]]] = deque()

    def copy(self, to: torch.Tensor, of: torch.Tensor) -> None:
        self.device.sources.append((of.data_ptr(), of.nbytes))
        self._queue(lambda: to.view(torch.uint8).fill_(TORN))
        self._queue(lambda: self._end_copy(to, of))

    def _end_copy(self, to: torch.Tensor, of: torch.Tensor) -> None:
        self.device.copies_ended += 1
        if self.device.copies_ended == self.device.fail_at:
            self.error = "an illegal memory access\nwas encountered"
        else:
            to.copy_(of)

    def record(self) -> Mark:
        mark = FakeMark(self.device)
        self._queue(lambda: self._reach(mark))
        return mark

    def _reach(self, mark: FakeMark) -> None:
        mark.error, self.error = self.error, ""
        mark.done = True

    def wait(self, mark: Mark) -> None:
        assert isinstance(mark, FakeMark)
        self._queue(lambda: None, lambda: mark.done)

    def read(self, tensors: Mapping[str, torch.Tensor], wanted: Mapping[str, torch.Tensor]) -> None:
        """Computes with `tensors`, for some time, and notes where they are not `wanted`."""
        for _ in range(3):
            self._queue(lambda: self._compare(tensors, wanted))

    def _compare(self, tensors: Mapping[str, torch.Tensor], wanted: Mapping[str, torch.Tensor]) -> None:
        self.device.wrong += [name for name in wanted if not tensors[name].equal(wanted[name])]

    def _queue(self, work: Callable[[], object], ready: Callable[[], bool] = lambda: True) -> None:
        with self.device.guard:
            self.queue.append((ready, work))
        self.device.wander()


class FakeDevice:
    """wrong: names of tensors that were read while they were not what they should be. fail_at: which copy fails, from 1."""

    def __init__(self, seed: int) -> None:
        self.random, self.guard = random.Random(seed), threading.RLock()
        self.copies, self.compute = FakeLane(self), FakeLane(self)
        self.wrong: list[str] = []
        self.locked: dict[int, int] = {}
        self.sources: list[tuple[int, int]] = []
        self.copies_ended = self.fail_at = self.most_locked = 0

    def as_device(self) -> Device:
        return Device(CPU, self.copies, self.compute, self.lock)

    def lock(self, memory: torch.Tensor) -> Unlock:
        assert memory.data_ptr() not in self.locked
        self.locked[memory.data_ptr()] = memory.nbytes
        self.most_locked = max(self.most_locked, sum(self.locked.values()))
        return lambda: self.locked.__delitem__(memory.data_ptr())

    def locks(self, at: int, size: int) -> bool:
        return any(start <= at and at + size <= start + length for start, length in self.locked.items())

    def step(self) -> bool:
        """One piece of work of one lane; False where none may begin."""
        with self.guard:
            lanes = [lane for lane in (self.copies, self.compute) if lane.queue and lane.queue[0][0]()]
            if lanes:
                self.random.choice(lanes).queue.popleft()[1]()
            return bool(lanes)

    def wander(self) -> None:
        for _ in range(self.random.choice((0, 0, 0, 1, 2, 5))):
            self.step()

    def run_until(self, reached: Callable[[], bool]) -> None:
        while not reached():
            assert self.step() or reached(), "two lanes wait for each other"

    def drain(self) -> None:
        while self.step():
            pass


class EagerLane:
    """Implements Lane for arithmetic that is done where it is called: it waits at once, and never has anything left."""

    def __init__(self, device: FakeDevice) -> None:
        self.device = device

    def copy(self, to: torch.Tensor, of: torch.Tensor) -> None:
        to.copy_(of)

    def record(self) -> Mark:
        mark = FakeMark(self.device)
        mark.done = True
        return mark

    def wait(self, mark: Mark) -> None:
        mark.synchronize()


def vram_for(making: Making, layers: int, dtype: torch.dtype) -> int:
    """--vram in which so many of a store's layers stay, and no more."""
    assert isinstance(making.model, Store)
    assert making.options.context
    all_of_it = making.device_placement(making.model, making.options.context, 2**50, dtype)
    held = next(entry.bytes for entry in all_of_it.vram if entry.what == "layers in GPU memory")
    found = all_of_it.device_bytes - held + (SLOTS + layers) * held // all_of_it.on_device
    assert making.device_placement(making.model, making.options.context, found, dtype).on_device == layers
    return found
