"""What one rule did at one budget and temperature, and comparisons of two such."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tests.benchmarks.lab.profiles import Profile

Written = Sequence[tuple[int, int]]  # (tokens, passes) of each story


@dataclass(frozen=True)
class Cell:
    """written: by story. nodes: of all trees, roots not counted. widths: {rows of a draft pass: how many such}."""

    pair: str
    rule: str
    temperature: float
    budget: int
    written: Written
    nodes: int
    widths: Mapping[int, int]
    lookup: bool
    seconds: float  # that measuring took

    @property
    def key(self) -> tuple[str, str, float, int]:
        return self.pair, self.rule, self.temperature, self.budget

    @property
    def passes(self) -> int:
        return sum(passes for _, passes in self.written)

    @property
    def tokens_per_pass(self) -> float:
        return sum(tokens for tokens, _ in self.written) / self.passes

    @property
    def standard_error(self) -> float:
        """Over stories: the linearised ratio of two sums."""
        return _error(self._influences())

    @property
    def draft_passes(self) -> float:
        """Sequential ones, a pass of the target."""
        return sum(self.widths.values()) / self.passes

    def tokens_per_second(self, profile: Profile) -> float:
        widths = {width: count / self.passes for width, count in self.widths.items()}
        return self.tokens_per_pass / profile.seconds(self.nodes / self.passes, widths, self.lookup)

    def lead(self, other: "Cell") -> float:
        """Tokens a pass more than another rule's on the same stories, in standard errors of the difference."""
        differences = [a - b for a, b in zip(self._influences(), other._influences(), strict=True)]
        difference, error = self.tokens_per_pass - other.tokens_per_pass, _error(differences)
        return difference / error if error else math.copysign(math.inf, difference) if difference else 0.0

    def _influences(self) -> list[float]:
        """By how much each story moves tokens_per_pass."""
        return [(tokens - self.tokens_per_pass * passes) / self.passes for tokens, passes in self.written]


def _error(influences: Sequence[float]) -> float:
    count = len(influences)
    return math.sqrt(count / (count - 1) * sum(x * x for x in influences)) if count > 1 else math.nan
