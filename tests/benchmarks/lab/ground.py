"""What all rules of a cell stand on: the pair, the temperature, the text, and the account of what is used."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch

from specexec.noise import Noise
from specexec.tree import DraftTree
from tests.benchmarks.lab.cost import Cost, Counted
from tests.benchmarks.lab.remembered import Remembered
from tests.benchmarks.lab.rows import DraftRows, evaluate
from tests.benchmarks.lab.text import Text
from tests.benchmarks.pair import Pair


def law(logits: torch.Tensor, temperature: float) -> torch.Tensor:
    """float64[n, V]: probabilities at the temperature; all on the largest logit where it is 0."""
    if temperature == 0:
        return torch.nn.functional.one_hot(logits.argmax(-1), logits.shape[-1]).double()
    return (logits.double() / temperature).softmax(-1)


@dataclass
class Ground:
    """texts: {answer's number: its text}, shared by all rules at one temperature. lookup: the draft is no model."""

    pair: Pair
    temperature: float
    seed: int = 0
    texts: dict[int, Text] = field(default_factory=dict)
    cost: Cost = field(default_factory=Cost)

    def __post_init__(self) -> None:
        self._draft = self.pair.draft
        self.pair = replace(self.pair, draft=Counted(self._draft, self.cost))
        self.random = torch.Generator().manual_seed(self.seed)

    @property
    def lookup(self) -> bool:
        return isinstance(self._draft, Remembered)

    def begin(self, prompt: Sequence[int], number: int) -> None:
        """Answer `number` starts below `prompt`."""
        self.noise = Noise(self.seed, number, len(prompt), self.pair.target.limits.vocabulary, self.temperature == 0)
        self.random = torch.Generator().manual_seed(self.seed * 1_000_003 + number)
        if number not in self.texts:
            self.texts[number] = Text(self.pair.target, prompt, self.temperature, self.noise)
        self.text = self.texts[number]

    def levels(self, context: Sequence[int]) -> int:
        """Levels below node 0 that both contexts have room for."""
        return min(self.pair.target.limits.context, self.pair.draft.limits.context) - len(context)

    def rows(self, context: Sequence[int]) -> DraftRows:
        return DraftRows(self.pair.draft, self.pair.vocabulary, context)

    def q(self, logits: torch.Tensor) -> torch.Tensor:
        """The draft's laws: at temperature 0 those at 1, which rank the same."""
        return law(logits, self.temperature or 1.0)

    def evaluate(self, context: Sequence[int], tree: DraftTree, first: int = 0) -> torch.Tensor:
        """float64[n - first, V]: the target's laws at nodes first.. of the tree below `context`; a draft that learns does."""
        self.pair.target.sync(context[:-1])
        logits = evaluate(self.pair.target, tree, first)
        if isinstance(self._draft, Remembered):
            self._draft.learn(context, tree, logits, first)
        return law(logits, self.temperature)

    def follow(self, context: Sequence[int], tree: DraftTree) -> list[int]:
        """The target's own picks are followed: what they are is no matter of the tree."""
        self.cost.nodes += len(tree) - 1
        if self.lookup:
            self.evaluate(context, tree)
        return self.text.follow(context, tree)

    def uniform(self) -> float:
        return float(torch.rand(1, generator=self.random, dtype=torch.float64))

    def sample(self, p: torch.Tensor) -> int:
        """From float64[V]."""
        return int(p.argmax() if self.temperature == 0 else torch.multinomial(p, 1, generator=self.random))
