"""The target drafts for itself: the same weights, over a view of its KV cache that costs the same however long it is."""

import time
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch

from specexec.drafters.cascade import Cascade
from specexec.drafters.evaluated import Evaluated
from specexec.drafters.growing import Growing, Lesson, Proposal
from specexec.drafters.model import Asked, ModelExpander, unread
from specexec.drafters.setting import Setting
from specexec.engines.weights_engine import WeightsEngine
from specexec.kv.cache import KVCache
from specexec.roles import Reader
from specexec.tree import DraftTree
from specexec.verify import Picks
from specexec.vocabulary import Vocabulary

FEW = 16  # tokens above node 0 beyond which the target has to read them first
LATELY, LONG = 0.1, 0.01  # weights of a new pass in the rates of acceptance
DROP = 0.1  # by which it may fall before the view looks for other rows
SETTLED = 20  # passes before a fall means anything


class SelfView(KVCache, Protocol):
    """A view of the target's cache that may be told to see other rows."""

    def doubt(self) -> None: ...


class Same(ModelExpander):
    """Implements Expander with the target's own engine, whose `sync` comes before each tree.

    view: of target's cache. cascade: what drafts for this tier, if anything. Its rows go as the target commits its own,
    so nothing is kept from tree to tree; the target's rows are better.
    """

    source = "self"

    def __init__(self, target: WeightsEngine, view: SelfView, cascade: Cascade | None = None) -> None:
        super().__init__(target.over(view), Vocabulary(None))
        self.target, self.view, self.cascade = target, view, cascade
        self._lately = self._long = 0.0
        self._judged = 0

    def begin(self, setting: Setting) -> None:
        self.target.settle()
        super().begin(setting)
        self._evaluated = Evaluated()

    def expand(self, tree: Growing, nodes: list[int]) -> list[Proposal]:
        return super().expand(tree, nodes) if self.engine.missing <= FEW else []

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

    def _look(self, asked: Sequence[Asked], also: Reader = unread) -> None:
        """The best of them takes along what was guessed below it."""
        if self.cascade is None:
            return super()._look(asked, also)
        beside = len(asked) - 1 + self.engine.missing
        context = [*self.setting.context[:-1], *asked[0].path]
        room = self.engine.limits.tree - len(self._evaluated) - len(asked)
        guess = self.cascade.guess(context, self.setting, beside, room)
        picks = self.cascade.picks(guess, context, self.setting)
        began = time.perf_counter()
        super()._look([*asked, *self._below(asked[0], guess, len(asked))], _of_guess(picks, len(asked)))
        return self.cascade.judge(guess, picks, beside, time.perf_counter() - began)

    def _below(self, best: Asked, guess: DraftTree, count: int) -> list[Asked]:
        """The guess's nodes but the first, which is the first of `count` rows before them."""
        first = len(self._evaluated)
        rows = [first, *range(first + count, first + count + len(guess) - 1)]
        paths = [[guess.tokens[above] for above in guess.path(node)[1:]] for node in range(len(guess))]
        return [Asked(rows[guess.parents[node]], (*best.path, *paths[node])) for node in range(1, len(guess))]


def _of_guess(picks: Picks, count: int) -> Reader:
    """Reads rows of which the first is the guess's node 0 and those from `count` on its others."""

    def read(first: int, logits: torch.Tensor) -> None:
        if first == 0:
            picks(0, logits[:1])
        if len(later := logits[max(0, count - first) :]):
            picks(max(first - count, 0) + 1, later)

    return read
