"""A draft model whose passes carry along what a cheaper drafter guessed below its best node, so that they are spared."""

import time
from collections.abc import Sequence

import torch

from specexec.drafters.cascade import Cascade
from specexec.drafters.model import Asked, ModelExpander, unread
from specexec.drafters.setting import Setting
from specexec.roles import Engine, Reader
from specexec.tree import DraftTree
from specexec.verify import Picks
from specexec.vocabulary import Vocabulary


class Tier(ModelExpander):
    """Implements Expander. cascade: what drafts for this model, if anything."""

    def __init__(self, engine: Engine, vocabulary: Vocabulary, cascade: Cascade | None = None) -> None:
        super().__init__(engine, vocabulary)
        self.cascade = cascade

    def begin(self, setting: Setting) -> None:
        fresh = self._setting is None or setting.noise is not self._setting.noise
        super().begin(setting)
        if self.cascade is not None:
            self.cascade.begin(fresh)

    def _look(self, asked: Sequence[Asked], also: Reader = unread) -> None:
        """The best of them takes along what was guessed below it."""
        if self.cascade is None:
            return super()._look(asked, also)
        beside = len(asked) - 1 + self.engine.missing
        worth = self.cascade.worth(beside).within(self.engine.limits.tree - len(self._evaluated) - len(asked))
        if not worth.budget:
            began = time.perf_counter()
            super()._look(asked, also)
            return self.cascade.passed(beside, time.perf_counter() - began)
        context = [*self.setting.context[:-1], *asked[0].path]
        guess = self.cascade.guess(context, self.setting, worth)
        picks = self.cascade.picks(guess, context, self.setting)
        began = time.perf_counter()
        super()._look([*asked, *self._below(asked[0], guess, len(asked))], self._of_guess(picks, len(asked)))
        return self.cascade.judge(guess, picks, beside, time.perf_counter() - began)

    def _below(self, best: Asked, guess: DraftTree, count: int) -> list[Asked]:
        """The guess's nodes but the first, which is the first of `count` rows before them."""
        first = len(self._evaluated)
        rows = [first, *range(first + count, first + count + len(guess) - 1)]
        paths = [[guess.tokens[above] for above in guess.path(node)[1:]] for node in range(len(guess))]
        return [Asked(rows[guess.parents[node]], (*best.path, *paths[node])) for node in range(1, len(guess))]

    def _of_guess(self, picks: Picks, count: int) -> Reader:
        """Reads rows of which the first is the guess's node 0 and those from `count` on its others."""

        def read(first: int, logits: torch.Tensor) -> None:
            if first == 0:
                picks(0, self.vocabulary.to_target(logits[:1]))
            if len(later := logits[max(0, count - first) :]):
                picks(max(first - count, 0) + 1, self.vocabulary.to_target(later))

        return read
