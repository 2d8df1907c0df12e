"""Our rule: growth and verification know the same Gumbel noise.   Daliri, Musco, Suresh 2024"""

from collections.abc import Sequence

from specexec.drafters.grow import Grow
from specexec.drafters.growing import Expander
from specexec.drafters.lookup import Chains, Recycled
from specexec.drafters.model import ModelExpander
from specexec.roles import Worth
from specexec.sampling import Penalties, Sampling
from specexec.verify import Picks, verify
from tests.benchmarks.lab.ground import Ground


class Ours:
    """Implements Rule with the drafter that the package ships."""

    def __init__(self, ground: Ground, budget: int) -> None:
        self.ground, self.worth = ground, Worth(budget)
        self.sampling = Sampling(temperature=ground.temperature)
        pair = ground.pair
        guessing: list[Expander] = [Chains(), Recycled()] if ground.lookup else [ModelExpander(pair.draft, pair.vocabulary)]
        self.drafter = Grow(guessing, pair.target.limits.context)

    def teach(self, texts: Sequence[Sequence[int]]) -> None:
        """Learns while it writes."""

    def advance(self, context: Sequence[int]) -> list[int]:
        noise, target = self.ground.noise, self.ground.pair.target
        target.sync(context[:-1])
        tree = self.drafter.draft(context, self.worth, self.sampling, noise)
        penalties = Penalties(self.sampling, context[: noise.origin], context[noise.origin :])
        picks = Picks(tree, len(context) - 1, self.sampling, noise, penalties)
        target.forward(tree, picks)
        verdict = verify(tree, picks)
        self.drafter.learn(tree, picks, verdict)
        self.ground.cost.nodes += len(tree) - 1
        return list(verdict.tokens)
