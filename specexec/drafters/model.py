"""Guesses of a small model: one forward looks below many nodes at once."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, repeat

import numpy as np
import torch

from specexec.drafters.belief import Belief
from specexec.drafters.corrections import LONGEST, Corrections
from specexec.drafters.evaluated import Evaluated, Row
from specexec.drafters.growing import Growing, Lesson, Proposal
from specexec.drafters.likely import Taste
from specexec.drafters.setting import Setting
from specexec.roles import Engine, Reader
from specexec.tree import ROOT, DraftTree
from specexec.vocabulary import Vocabulary

SOURCE = "draft"
KEPT_BYTES = 2**26  # of the draft's rows, until the target's come


def unread(first: int, logits: torch.Tensor) -> None:
    """A Reader that looks away."""


@dataclass(frozen=True)
class Asked:
    """What is to be evaluated: below which row, and the target's tokens from node 0 down to it."""

    parent: int
    path: tuple[int, ...]


class ModelExpander:
    """Implements Expander with an engine whose cache follows the target's context.

    What it evaluated below a node that turns out to be the next context is not evaluated again.
    """

    models, yields, source = True, False, SOURCE

    def __init__(self, engine: Engine, vocabulary: Vocabulary) -> None:
        self.engine, self.vocabulary, self.belief = engine, vocabulary, Belief()
        self._corrections = Corrections()
        self._setting: Setting | None = None
        self._evaluated = Evaluated()
        self._row: dict[int, int] = {}  # {growing node: row}

    @property
    def setting(self) -> Setting:
        assert self._setting is not None
        return self._setting

    def begin(self, setting: Setting) -> None:
        tokens = setting.after(self._setting)
        self._evaluated = Evaluated() if tokens is None else self._evaluated.below(tokens)
        self._setting, self._row = setting, {}
        self.engine.sync(self.vocabulary.to_draft(setting.context[:-1]))

    @property
    def missing(self) -> int:
        return 0 if self._evaluated else self.engine.missing

    def expand(self, tree: Growing, nodes: list[int]) -> list[Proposal]:
        known = [node for node in nodes if self._find(tree, node)]
        fitting = [node for node in nodes if node not in self._row and self._fits(tree, node)]
        new = fitting[: self.engine.limits.tree - len(self._evaluated)]
        if new:
            self._row |= zip(new, range(len(self._evaluated), len(self._evaluated) + len(new)), strict=True)
            self._look([self._asked(tree, node) for node in new])
        return self._proposals(tree, [*known, *new])

    def knows(self, tree: Growing, node: int) -> bool:
        return node in self._row or self._find(tree, node)

    def learn(self, lessons: list[Lesson]) -> None:
        seen = [(at, self._evaluated.rows[self._row[at.node]]) for at in lessons if at.node in self._row]
        self.belief.learn([(row.candidates, at.pick, at.weight) for at, row in seen])
        for at, row in sorted(seen, key=lambda pair: pair[0].weight):  # the likeliest context has the last word
            ids = np.array(at.top_ids)
            if (log_q := row.log_q(ids)) is not None:
                self._corrections.learn(row.before, ids, (np.array(at.top_log_p) - log_q) * self.setting.sampling.divisor)

    def _find(self, tree: Growing, node: int) -> bool:
        """Whether the node was evaluated for an earlier tree."""
        parent = self._row.get(tree.parents[node], ROOT) if node else ROOT
        row = self._evaluated.child(parent, tree.tokens[node]) if node == 0 or parent != ROOT else None
        if row is not None:
            self._row[node] = row
        return row is not None

    def _fits(self, tree: Growing, node: int) -> bool:
        position = self.setting.position_below(tree.depth[node]) - 1
        return (node == 0 or tree.parents[node] in self._row) and position < self.engine.limits.context

    def _asked(self, tree: Growing, node: int) -> Asked:
        above = self._row[tree.parents[node]] if node else ROOT
        return Asked(above, (self.setting.context[-1], *tree.path(node)))

    def _look(self, asked: Sequence[Asked], also: Reader = unread) -> None:
        """Evaluates more rows, in one pass. also: reads them too, counted from the first of these."""
        first = len(self._evaluated)

        def read(row: int, logits: torch.Tensor) -> None:
            self._read(asked[row - first : row - first + len(logits)], logits)
            also(row - first, logits)

        try:
            self.engine.forward(self._drafted(asked), read, first)
        except BaseException:
            self._evaluated, self._row = Evaluated(), {}  # the engine forgets them too
            raise

    def _drafted(self, asked: Sequence[Asked]) -> DraftTree:
        rows = self._evaluated.rows
        tokens = self.vocabulary.to_draft([*(row.token for row in rows), *(new.path[-1] for new in asked)])
        parents = [*(row.parent for row in rows), *(new.parent for new in asked)]
        return DraftTree(tuple(tokens), tuple(parents), (0.0,) * len(tokens), (self.source,) * len(tokens))

    def _read(self, asked: Sequence[Asked], logits: torch.Tensor) -> None:
        """Keeps what the draft says at some rows."""
        setting, before = self.setting, [self._before(new) for new in asked]
        own = setting.penalties.apply(self.vocabulary.to_target(logits), [new.path[1:] for new in asked])
        taste = Taste(setting.sampling, self.belief.ranking(self._noise(asked)))
        room = max(0, KEPT_BYTES // (4 * own.shape[1]) - len(self._evaluated))
        found = taste.likely(own, self._corrections.off(before, setting.sampling.divisor), room)
        kept = chain(zip(found.kept, found.own.tolist(), strict=True), repeat((None, 0.0)))
        for new, candidates, scores, after, (row, total) in zip(asked, *found[:2], before, kept, strict=False):
            self._evaluated.add(Row(new.path[-1], new.parent, candidates, scores, after, row, total))

    def _noise(self, asked: Sequence[Asked]) -> list[torch.Tensor]:
        if self.setting.noise.silent:
            return []
        return [self.setting.noise.at(self.setting.position_below(len(new.path) - 1)) for new in asked]

    def _before(self, new: Asked) -> tuple[int, ...]:
        return (*self.setting.context[-LONGEST:-1], *new.path)[-LONGEST:]

    def _proposals(self, tree: Growing, nodes: list[int]) -> list[Proposal]:
        rows = [self._evaluated.rows[self._row[node]] for node in nodes]
        if not rows:
            return []
        scores, sizes = np.concatenate([row.scores for row in rows]), [len(row.scores) for row in rows]
        above = np.array([tree.score[node] for node in nodes]).repeat(sizes)
        good = (scores + above > tree.floor).nonzero()[0]
        ids, parents = np.concatenate([row.candidates.ids for row in rows])[good], np.repeat(nodes, sizes)[good]
        return [*map(Proposal, parents.tolist(), ids.tolist(), scores[good].tolist(), repeat(self.source))]
