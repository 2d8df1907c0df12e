"""The adverse case for benchmarks: guesses that are hardly ever right, at full cost to the target."""

import random

from specexec.drafters.growing import Growing, Lesson, Proposal
from specexec.drafters.setting import Setting


class Wild:
    """Implements Expander with random tokens. They never change the text, only the time it takes."""

    source, models, yields, missing = "random", False, False, 0

    def __init__(self, vocabulary: int, seed: int = 0) -> None:
        self.vocabulary, self._random = vocabulary, random.Random(seed)

    def begin(self, setting: Setting) -> None:
        """Needs no context."""

    def expand(self, tree: Growing, nodes: list[int]) -> list[Proposal]:
        tokens = self._random.sample(range(self.vocabulary), min(2, self.vocabulary))
        return [Proposal(node, token, -0.5, self.source) for node in nodes for token in tokens]

    def knows(self, tree: Growing, node: int) -> bool:
        return True

    def learn(self, lessons: list[Lesson]) -> None:
        """Learns nothing, on purpose."""
