"""What streaming asks of a device: two queues of work, and memory of this machine that its copies can read by themselves."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch


class Mark(Protocol):
    """A point in a lane."""

    def synchronize(self) -> None:
        """Returns once all before it is done. Raises RuntimeError where that failed."""


class Lane(Protocol):
    """Work that a device does in the order it was queued, beside that of other lanes. Nothing here waits for it."""

    def copy(self, to: torch.Tensor, of: torch.Tensor) -> None:
        """Queues to[:] = of, rounded where the dtypes differ. Neither may change until that is done."""

    def record(self) -> Mark:
        """The end of what is queued so far."""

    def wait(self, mark: Mark) -> None:
        """What is queued from now on begins after `mark`."""


Unlock = Callable[[], None]


@dataclass(frozen=True)
class Device:
    """place: where its tensors lie. compute: the lane of whatever the engine computes; copies: one beside it.

    lock(memory) page-locks this machine's memory until what it returns is called, and raises OffloadError where it cannot.
    """

    place: torch.device
    copies: Lane
    compute: Lane
    lock: Callable[[torch.Tensor], Unlock]
