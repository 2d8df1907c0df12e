"""Measures a cell: lessons first, then every story once."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

from tests.benchmarks.lab.cell import Cell
from tests.benchmarks.lab.chain import Chain
from tests.benchmarks.lab.chains import Chains
from tests.benchmarks.lab.cost import Cost
from tests.benchmarks.lab.dyspec import DySpec
from tests.benchmarks.lab.ground import Ground
from tests.benchmarks.lab.opt_tree import OptTree
from tests.benchmarks.lab.ours import Ours
from tests.benchmarks.lab.pairs import Prepared
from tests.benchmarks.lab.rows import chain_of
from tests.benchmarks.lab.rule import Rule
from tests.benchmarks.lab.sequoia import Sequoia
from tests.benchmarks.lab.specexec_tree import SpecExecTree
from tests.benchmarks.lab.text import Text

OURS = "ours"
RULES: dict[str, type[Rule]] = {
    OURS: Ours,
    "SpecExec": SpecExecTree,
    "OPT-Tree": OptTree,
    "DySpec": DySpec,
    "Sequoia": Sequoia,
    "k chains": Chains,
    "chain": Chain,
}
FIRST_LESSON = 1000  # number of its answer, which numbers the noise


@dataclass(frozen=True)
class Bench:
    """A pair at one temperature. texts: {answer's number: its text}, for all rules. length: tokens written a story."""

    name: str
    prepared: Prepared
    temperature: float
    seed: int
    length: int
    texts: dict[int, Text]

    def cell(self, rule: str, budget: int) -> Cell:
        ground, began = Ground(self.prepared.pair(), self.temperature, self.seed, self.texts), time.monotonic()
        made = RULES[rule](ground, budget)
        self._teach(ground, made)
        ground.cost.nodes = 0
        ground.cost.widths.clear()
        written = [self._write(ground, made, prompt, number) for number, prompt in enumerate(self.prepared.openings)]
        cost: Cost = ground.cost
        seconds = round(time.monotonic() - began, 1)
        return Cell(self.name, rule, self.temperature, budget, written, cost.nodes, dict(cost.widths), ground.lookup, seconds)

    def _teach(self, ground: Ground, rule: Rule) -> None:
        """Rules that learn while they write do it on the lessons; a draft that learns has seen half of them before."""
        lessons = [*enumerate(self.prepared.lessons, FIRST_LESSON)]
        texts = [self._text(ground, prompt, number) for number, prompt in lessons]
        seen = len(texts) // 2 if ground.lookup else 0
        for text in texts[:seen]:
            ground.evaluate(text[:1], chain_of(text))
        rule.teach(texts[seen:])
        for number, prompt in lessons:
            self._write(ground, rule, prompt, number)

    def _text(self, ground: Ground, prompt: Sequence[int], number: int) -> list[int]:
        ground.begin(prompt, number)
        ground.text.at(len(prompt) + self.length)
        return ground.text.tokens[: len(prompt) + self.length]

    def _write(self, ground: Ground, rule: Rule, prompt: Sequence[int], number: int) -> tuple[int, int]:
        """(tokens, passes) of one answer. The last pass counts whole: by Wald's identity the ratio then has no bias."""
        ground.begin(prompt, number)
        context, passes, eos = list(prompt), 0, ground.pair.eos
        while len(context) < len(prompt) + self.length and eos.isdisjoint(context[len(prompt) :]):
            context += rule.advance(context)
            passes += 1
        return len(context) - len(prompt), passes
