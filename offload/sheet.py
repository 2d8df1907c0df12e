"""A file of a store before it is written, and its bytes."""

import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

import torch

from offload.frame import Frame, frame
from offload.parts import Part

WORKERS = min(os.cpu_count() or 1, 8)

Made = tuple[torch.Tensor, ...]


@contextmanager
def workers() -> Iterator[ThreadPoolExecutor]:
    """A thread a core, each working on rows of its own: torch's threads would share out temporaries too small for that."""
    before = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(WORKERS, "convert", torch.set_num_threads, (1,)) as pool:
            yield pool
    finally:
        torch.set_num_threads(before)


@dataclass(frozen=True)
class Sheet:
    """The file `name`, of these parts."""

    name: str
    parts: tuple[Part, ...]

    @cached_property
    def frame(self) -> Frame:
        return frame([slot for part in self.parts for slot in part.slots])

    @property
    def nbytes(self) -> int:
        return self.frame.nbytes

    def pieces(self, pool: ThreadPoolExecutor) -> Iterator[memoryview | bytes]:
        """The whole file in order. Raises what its parts raise."""
        return self.frame.around(x.flatten().view(torch.uint8).numpy().data for x in self._tensors(pool))

    def _tensors(self, pool: ThreadPoolExecutor) -> Iterator[torch.Tensor]:
        """A part's first tensor as it is made, then the others, which are small."""
        others: list[Made] = []
        for made, last in self._made(pool):
            yield made[0]
            others.append(made[1:])
            if last:
                yield from (tensor for tensors in zip(*others, strict=True) for tensor in tensors)
                others.clear()

    def _made(self, pool: ThreadPoolExecutor) -> Iterator[tuple[Made, bool]]:
        """What each step of each part makes, in order, and whether it is the part's last; a few are made ahead."""
        ahead: deque[tuple[Future[Made], bool]] = deque()
        try:
            for part, step, last in _steps(self.parts):
                ahead.append((pool.submit(part.make, *step), last))
                if len(ahead) > WORKERS:
                    yield _result(*ahead.popleft())
            while ahead:
                yield _result(*ahead.popleft())
        finally:
            for future, _ in ahead:
                future.cancel()


def _result(future: Future[Made], last: bool) -> tuple[Made, bool]:
    return future.result(), last


def _steps(parts: Sequence[Part]) -> Iterator[tuple[Part, tuple[int, int], bool]]:
    for part in parts:
        steps = list(part.steps())
        yield from ((part, step, number == len(steps)) for number, step in enumerate(steps, 1))
