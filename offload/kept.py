"""Ways to keep keys and values, and to draft over them: how fast each is where the context ends. Pure."""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace

from offload.crossover import GUESSES, RIGHT, as_large
from offload.errors import TooLittleMemory
from offload.footprint import Footprint
from offload.machine import BF16
from offload.outlook import Outlook
from offload.predict import arithmetic, attention

UPPER = "int4"  # the half of int8 that a view reads
LARGE = 2**30  # bytes of keys and values below which a model spends its time on other things than bytes


@dataclass(frozen=True)
class Way:
    """kv: format of keys and values. view: what of them the model drafts over for itself: int4, retrieval, or nothing.

    seconds: of a pass that checks no guess; draft: of one that makes one. speed: tokens a second; of GUESSES over a view, RIGHT
    are taken to be right.
    """

    kv: str
    view: str | None
    seconds: float
    draft: float | None
    speed: float

    @property
    def options(self) -> str:
        """That make it so."""
        return f"--kv {self.kv}" + (f" --draft self --draft-kv {self.view}" if self.view else "")


def ways(of: Outlook, rows: int) -> tuple[Way, ...]:
    """Fastest first: those for which there is memory. rows: that a retrieval view sees."""
    return tuple(sorted(_ways(of, rows), key=lambda way: -way.speed))


def _ways(of: Outlook, rows: int) -> Iterator[Way]:
    for kv in of.machine.attention or (BF16,):
        kept = replace(of, demand=replace(of.demand, kv=kv))
        with suppress(TooLittleMemory):
            seconds = kept.plain.seconds
            yield Way(kv, None, seconds, None, 1 / seconds)
            if not kept.placement.streamed:  # a model that streams reads all of it for a guess
                yield from _drafting(kept, rows)


def _drafting(kept: Outlook, rows: int) -> Iterator[Way]:
    kv, context = kept.demand.kv, kept.demand.context
    machine = kept.machine
    views = {"retrieval": _draft(kept, machine.choosing(BF16 if kv == BF16 else UPPER), min(rows, context))}
    if kv == "int8":
        views[UPPER] = _draft(kept, machine.seeing(UPPER), context)
    for view, draft in views.items():
        checked = kept.at(context, GUESSES + 1).seconds
        yield Way(kv, view, kept.plain.seconds, draft, (RIGHT + 1) / (GUESSES * draft + checked))


def _draft(kept: Outlook, rates: Mapping[int, float], rows: int) -> float:
    """Seconds of a pass over so many rows of a resident model."""
    of, machine = kept.of, kept.machine
    seeing = attention(of.kv_token * rows, of.group, rates, 1)
    return arithmetic(of.multiplied, machine.products, 1) + seeing + of.layers * machine.layer


def by_itself(of: Footprint, context: int) -> bool:
    """Whether eight bits are chosen unasked, where all of a model is in memory: a pass reads more keys and values than weights.

    By bytes alone: nothing that was measured may decide what a text is.
    """
    return of.kv_token * context >= LARGE and context >= as_large(of)
