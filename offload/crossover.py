"""From which context on keys and values are what a pass spends its time on, and drafting over a view of them pays. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass

from offload.footprint import Footprint
from offload.predict import arithmetic, attention

STEP = 1024  # of the contexts that are tried
GUESSES, RIGHT = 8, 6  # a round of a model that drafts for itself, one pass a guess: assumed, as tokens a pass are


@dataclass(frozen=True)
class Resident:
    """A model whose weights stay in memory, its keys and values in bf16.

    products: as a Machine's. attention, chosen: {queries: bytes a second} of all rows and of chosen ones. longest: positions it
    was trained on.
    """

    of: Footprint
    products: Mapping[int, float]
    attention: Mapping[int, float]
    chosen: Mapping[int, float]
    longest: int

    def seconds(self, n: int, context: int) -> float:
        """Of a pass of n tokens that see so many rows."""
        return arithmetic(self.of.multiplied, self.products, n) + self.seeing(n, context)

    def drafting(self, rows: int) -> float:
        """Of a pass of one that sees so many rows of a view."""
        return self.seconds(1, 0) + attention(self.of.kv_token * rows, self.of.group, self.chosen, 1)

    def seeing(self, n: int, context: int) -> float:
        """Of attention alone."""
        return attention(self.of.kv_token * context, self.of.group, self.attention, n)

    def as_long(self) -> int | None:
        """The context from which on a token's attention takes as long as its weights; None where none is so long."""
        a_row = self.seeing(1, 1)
        rows = int(arithmetic(self.of.multiplied, self.products, 1) / a_row) + 1 if a_row else self.longest + 1
        return rows if rows <= self.longest else None

    def pays(self, rows: int) -> int | None:
        """The context from which on it writes faster by drafting for itself over a view of so many rows."""
        return next((context for context in range(STEP, self.longest + 1, STEP) if self._faster(rows, context)), None)

    def _faster(self, rows: int, context: int) -> bool:
        drafting = GUESSES * self.drafting(min(rows, context)) + self.seconds(GUESSES + 1, context)
        return drafting < (RIGHT + 1) * self.seconds(1, context)


def as_large(of: Footprint) -> int:
    """The context whose keys and values are as many bytes as the weights that a pass reads."""
    return -(-(of.layers * of.layer + of.head) // of.kv_token)
