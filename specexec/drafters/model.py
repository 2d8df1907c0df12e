"""Guesses of a small model: one forward looks below many nodes at once."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from specexec.drafters.belief import Belief, Candidates
from specexec.drafters.corrections import LONGEST, Corrections
from specexec.drafters.evaluated import Evaluated, Row
from specexec.drafters.growing import Growing, Lesson, Proposal
from specexec.drafters.setting import Setting
from specexec.online import Vector
from specexec.roles import Engine, Reader
from specexec.sampling import Cut, cut, scale
from specexec.top import best
from specexec.tree import ROOT, DraftTree
from specexec.vocabulary import Vocabulary

SOURCE = "draft"
WIDTH = 32  # children looked at below a node
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
                self._corrections.learn(row.before, ids, (np.array(at.top_log_p) - log_q) * self._temperature)

    @property
    def _temperature(self) -> float:
        """What logits were divided by."""
        return self.setting.sampling.temperature or 1.0

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
        setting = self.setting
        paths = [list(new.path[1:]) for new in asked]
        own = scale(setting.penalties.apply(self.vocabulary.to_target(logits), paths), setting.sampling)
        before = [self._before(new) for new in asked]
        x = self._corrections.apply(own, before, self._temperature)
        noise = [setting.noise.at(setting.position_below(len(new.path) - 1)) for new in asked]
        filtered = cut(x, setting.sampling)
        found = self._likely(x, noise) if filtered is None else self._likely_among(filtered, noise)
        ids, log_q, g = found[0].cpu().numpy(), *(column.cpu().double().numpy() for column in found[1:])
        kept = self._kept(own)
        for i, new in enumerate(asked):
            some = np.isfinite(log_q[i])
            candidates = Candidates(ids[i, some], log_q[i, some], g[i, some])
            self._evaluated.add(Row(new.path[-1], new.parent, candidates, before[i], *kept[i]))

    def _kept(self, own: torch.Tensor) -> list[tuple[torch.Tensor | None, float]]:
        """Each row and its log-sum-exp, while there is room."""
        rows = own[: max(0, KEPT_BYTES // (4 * own.shape[1]) - len(self._evaluated))].clone()  # it may be the engine's own
        return [*zip(rows, best(rows, 1).log_sum_exp.tolist(), strict=True), *[(None, 0.0)] * (len(own) - len(rows))]

    def _before(self, new: Asked) -> tuple[int, ...]:
        return (*self.setting.context[-LONGEST:-1], *new.path)[-LONGEST:]

    def _likely(self, x: torch.Tensor, noise: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
        """(ids, log q, noise) [n, WIDTH] of the best a log q + b g; log q and x differ by a constant of the row."""
        _, ids, total = best(x, WIDTH, () if self.setting.noise.silent else noise, self.belief.a, self.belief.b)
        return ids, x.gather(1, ids) - total[:, None], _of(noise, ids)

    def _likely_among(self, filtered: Cut, noise: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
        """The same among those that pass the person's filters; -inf fills up."""
        g = _of(noise, filtered.ids)
        z = (self.belief.a * filtered.values + self.belief.b * g).masked_fill(filtered.out, -torch.inf)
        z, places = z.topk(min(WIDTH, z.shape[1]), dim=-1)
        log_q = filtered.values - filtered.log_sum_exp[:, None]
        log_q = log_q.gather(1, places).masked_fill(z.isneginf(), -torch.inf)
        return filtered.ids.gather(1, places), log_q, g.gather(1, places)

    def _proposals(self, tree: Growing, nodes: list[int]) -> list[Proposal]:
        if not nodes:
            return []
        found = [self._evaluated.rows[self._row[node]].candidates for node in nodes]
        log_q, noise = _padded([one.log_q for one in found], -np.inf), _padded([one.noise for one in found], 0.0)
        scores = self.belief.scores(log_q, noise)
        above = np.array([tree.score[node] for node in nodes])[:, None]
        rows, places = np.nonzero((scores + above > tree.floor) & np.isfinite(scores))
        return [Proposal(nodes[row], int(found[row].ids[place]), float(scores[row, place]), self.source)
                for row, place in zip(rows.tolist(), places.tolist(), strict=True)]


def _of(rows: Sequence[torch.Tensor], ids: torch.Tensor) -> torch.Tensor:
    return torch.stack([row[some] for row, some in zip(rows, ids, strict=True)])


def _padded(rows: list[Vector], value: float) -> Vector:
    """[n, longest]."""
    out = np.full((len(rows), max(map(len, rows))), value)
    for at, row in enumerate(rows):
        out[at, : len(row)] = row
    return out
