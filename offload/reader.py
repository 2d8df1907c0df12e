"""The thread that reads ahead: which layer lies in which slot, in the order of a cycle that it runs on across passes."""

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from itertools import count

USUAL = 0.8  # weight of all earlier reads in what one usually takes
SURE = 0.8  # the share of what is left of a wait that may be counted on


class Reader:
    """fetch(index, slot) reads a layer and returns True, False where `stopping` made it give up.

    settle(index, slot) is called, on the same thread, once the layer may be taken. An exception of either is raised by the
    take that waits for that layer; the next take starts reading anew.
    """

    def __init__(
        self, cycle: Sequence[int], slots: int, fetch: Callable[[int, int], bool],
        settle: Callable[[int, int], None] = lambda index, slot: None,
    ) -> None:
        self._cycle, self._slot_count, self._fetch, self._settle = cycle, slots, fetch, settle
        self.waited = 0.0  # seconds, in all, until layers were there
        self._usual = 0.0  # seconds that a read takes
        self._began: float | None = None  # when the one that goes on did
        self.stopping = False  # asked by fetch between blocks
        self._changed = threading.Condition()
        self._ready: deque[tuple[int, int, float]] = deque()  # (layer, slot, when it was there), oldest first
        self._taken: int | None = None  # the slot in use
        self._error: BaseException | None = None
        self._thread: threading.Thread | None = None
        self._expected = -1  # the layer that the next take should ask for

    def take(self, index: int, work: Callable[[float], bool] = lambda seconds: False) -> int:
        """The slot that holds layer `index`, once it is there. Raises what reading it raised.

        work: called while it is not, until it returns False, with the seconds that may surely be spent on it.
        """
        if not self._follows(index):
            self._start(index)
        began = time.perf_counter()
        while not self._there and work(self._left):
            pass
        with self._changed:
            self._changed.wait_for(lambda: self._there)
            if not self._ready:
                error, self._error = self._error, None
                assert error is not None
                self._thread = None
                raise error
            _, self._taken, there = self._ready.popleft()
            self.waited += max(0.0, there - began)
            return self._taken

    @property
    def _there(self) -> bool:
        return bool(self._ready or self._error)

    @property
    def _left(self) -> float:
        """Of the read that is waited for; 0 before any was seen."""
        now = time.perf_counter()
        return max(0.0, SURE * ((self._began or now) + self._usual - now))

    def release(self) -> None:
        """The slot taken last may be written again."""
        with self._changed:
            self._taken = None
            self._expected = self._next(self._expected)
            self._changed.notify_all()

    def close(self) -> None:
        """Ends the thread."""
        with self._changed:
            self.stopping = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()
        self._thread, self.stopping = None, False

    def _follows(self, index: int) -> bool:
        return self._thread is not None and self._expected == index

    def _next(self, index: int) -> int:
        return self._cycle[(self._cycle.index(index) + 1) % len(self._cycle)]

    def _start(self, index: int) -> None:
        self.close()
        self._ready.clear()
        self._error, self._expected = None, index
        self._thread = threading.Thread(target=self._run, args=(index,), name="reader", daemon=True)
        self._thread.start()

    def _run(self, index: int) -> None:
        try:
            for turn in count():
                slot = turn % self._slot_count
                if not self._wait_for(slot):
                    return
                self._began = began = time.perf_counter()
                if not self._fetch(index, slot):
                    return
                self._began = None
                with self._changed:
                    self._ready.append((index, slot, there := time.perf_counter()))
                    self._changed.notify_all()
                took = there - began
                self._usual = USUAL * self._usual + (1 - USUAL) * took if self._usual else took
                self._settle(index, slot)
                index = self._next(index)
        except BaseException as error:  # the thread that waits raises it
            with self._changed:
                self._error = error
                self._changed.notify_all()

    def _wait_for(self, slot: int) -> bool:
        """Until the slot is free; False: the thread is to end."""
        with self._changed:
            self._changed.wait_for(lambda: self.stopping or (slot != self._taken and all(slot != s for _, s, _ in self._ready)))
            return not self.stopping
