"""Our rule: growth and verification know the same Gumbel noise.   Daliri, Musco, Suresh 2024"""

from collections.abc import Sequence

from specexec.drafters.grow import Grow
from specexec.drafters.model import ModelExpander
from specexec.noise import Noise
from specexec.roles import Worth
from specexec.sampling import Penalties, Sampling
from specexec.verify import Picks, verify
from tests.benchmarks.pair import Pair


class SharedNoise:
    """Implements Rule."""

    def __init__(self, pair: Pair, budget: int, temperature: float, seed: int) -> None:
        self.pair, self.worth, self.seed = pair, Worth(budget), seed
        self.sampling = Sampling(temperature=temperature)
        self.drafter = Grow([ModelExpander(pair.draft, pair.vocabulary)], pair.target.limits.context)

    def begin(self, prompt: Sequence[int], number: int) -> None:
        size, silent = self.pair.target.limits.vocabulary, self.sampling.temperature == 0
        self.noise = Noise(self.seed, number, len(prompt), size, silent)

    def advance(self, context: Sequence[int]) -> list[int]:
        origin = self.noise.origin
        self.pair.target.sync(context[:-1])
        tree = self.drafter.draft(context, self.worth, self.sampling, self.noise)
        penalties = Penalties(self.sampling, context[:origin], context[origin:])
        picks = Picks(tree, len(context) - 1, self.sampling, self.noise, penalties)
        self.pair.target.forward(tree, picks)
        verdict = verify(tree, picks)
        self.drafter.learn(tree, picks, verdict)
        return list(verdict.tokens)
