"""A model drafts for itself: the same weights, over a view of its KV cache that costs the same however long it is."""

from typing import Protocol

import numpy as np

from specexec.drafters.cascade import Cascade
from specexec.drafters.evaluated import Evaluated
from specexec.drafters.growing import Growing, Lesson, Proposal
from specexec.drafters.setting import Setting
from specexec.drafters.tier import Tier
from specexec.engines.weights_engine import WeightsEngine
from specexec.kv.cache import KVCache
from specexec.roles import WeightSource
from specexec.vocabulary import Vocabulary

FEW = 32  # tokens above node 0 beyond which the model itself has to read them first
LATELY, LONG = 0.1, 0.01  # weights of a new pass in the rates of acceptance
DROP = 0.1  # by which it may fall before the view looks for other rows
SETTLED = 20  # passes before a fall means anything


class SelfView(KVCache, Protocol):
    """A view of the target's cache that may be told to see other rows."""

    def doubt(self) -> None: ...


class Same(Tier):
    """Implements Expander with the engine of the model it drafts for, whose `sync` comes before each tree.

    view: of that one's cache. cascade: what drafts for this tier, if anything. Its rows go as the other commits its own,
    so nothing is kept from tree to tree; the other's rows are better. vocabulary: that model's, in the tokens of the target.
    weights: that are like the model's, and cheaper to read; None for its own.   SubSpec, Wang et al. 2025
    """

    source = "self"

    def __init__(
        self, target: WeightsEngine, view: SelfView, cascade: Cascade | None = None, vocabulary: Vocabulary | None = None,
        weights: WeightSource | None = None,
    ) -> None:
        super().__init__(target.over(view, weights), vocabulary or Vocabulary(None), cascade)
        self.target, self.view = target, view
        self._lately = self._long = 0.0
        self._judged = self._lacks = 0

    def begin(self, setting: Setting) -> None:
        self.target.settle()
        super().begin(setting)
        self._evaluated = Evaluated()
        self._lacks = self.engine.missing  # chooses rows anew where that is due, before a look is timed

    def expand(self, tree: Growing, nodes: list[int]) -> list[Proposal]:
        return super().expand(tree, nodes) if self._lacks <= FEW else []

    def learn(self, lessons: list[Lesson]) -> None:
        super().learn(lessons)
        agreed = [(self._pick(self._row[at.node]) == at.pick, at.weight) for at in lessons if at.node in self._row]
        if agreed:
            self._accepted(sum(weight for same, weight in agreed if same) / sum(weight for _, weight in agreed))

    def _pick(self, row: int) -> int:
        """What it would have written itself."""
        found = self._evaluated.rows[row].candidates
        return int(found.ids[np.argmax(found.log_q + found.noise)]) if len(found.ids) else -1

    def _accepted(self, share: float) -> None:
        """The share of its picks, likely ones before others, that the target's full pass picked too."""
        self._judged += 1
        self._lately += max(LATELY, 1 / self._judged) * (share - self._lately)
        self._long += max(LONG, 1 / self._judged) * (share - self._long)
        if self._judged > SETTLED and self._lately < self._long - DROP:
            self.view.doubt()
            self._lately = self._long
