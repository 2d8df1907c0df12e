"""Guesses of a small model: one forward looks below many nodes at once."""

import numpy as np
import torch

from specexec.drafters.belief import Belief, Candidates
from specexec.drafters.corrections import LONGEST, Corrections
from specexec.drafters.growing import Growing, Lesson, Proposal
from specexec.drafters.setting import Setting
from specexec.online import Vector
from specexec.roles import Engine
from specexec.sampling import Cut, cut, scale
from specexec.top import top
from specexec.tree import ROOT, DraftTree
from specexec.vocabulary import Vocabulary

SOURCE = "draft"
WIDTH = 32  # children looked at below a node
KEPT_BYTES = 2**26  # of the draft's rows, until the target's come


class ModelExpander:
    """Implements Expander with an engine whose cache follows the target's context."""

    models, yields = True, False

    def __init__(self, engine: Engine, vocabulary: Vocabulary) -> None:
        self.engine, self.vocabulary, self.belief = engine, vocabulary, Belief()
        self._rows: dict[int, int] = {}  # {growing node: row of the engine's tree}
        self._candidates: dict[int, Candidates] = {}
        self._corrections = Corrections()
        self._logits: dict[int, torch.Tensor] = {}  # {growing node: fp32[V], the draft's, at the temperature}
        self._before: dict[int, tuple[int, ...]] = {}  # {growing node: the last tokens, its own included}

    def begin(self, setting: Setting) -> None:
        self.setting = setting
        self._rows, self._candidates, self._logits, self._before = {}, {}, {}, {}
        self.engine.sync([self.vocabulary.to_draft(token) for token in setting.context[:-1]])

    @property
    def missing(self) -> int:
        return 0 if self._rows else self.engine.missing

    def expand(self, tree: Growing, nodes: list[int]) -> list[Proposal]:
        fitting = [node for node in nodes if self._fits(tree, node)][: self.engine.limits.tree - len(self._rows)]
        if not fitting:
            return []
        first = len(self._rows)
        self._rows.update({node: first + i for i, node in enumerate(fitting)})
        proposals: list[Proposal] = []
        self.engine.forward(self._drafted(tree), lambda row, logits: proposals.extend(
            self._read(tree, fitting[row - first : row - first + len(logits)], logits)), first)
        return proposals

    def learn(self, lessons: list[Lesson]) -> None:
        seen = [(self._candidates[at.node], at.pick, at.weight) for at in lessons if at.node in self._candidates]
        self.belief.learn(seen)
        for at in sorted(lessons, key=lambda lesson: lesson.weight):  # the likeliest context has the last word
            if at.node in self._logits:
                self._correct(at, self._logits[at.node])

    def _correct(self, at: Lesson, row: torch.Tensor) -> None:
        ids = torch.tensor(at.top_ids)
        log_q = (row[ids.to(row.device)] - row.logsumexp(-1)).cpu()
        self._corrections.learn(self._before[at.node], ids, (torch.tensor(at.top_log_p) - log_q) * self._temperature)

    @property
    def _temperature(self) -> float:
        """What logits were divided by."""
        return self.setting.sampling.temperature or 1.0

    def _fits(self, tree: Growing, node: int) -> bool:
        position = self.setting.position_below(tree.depth[node]) - 1
        limits = self.engine.limits
        known = node == 0 or tree.parents[node] in self._rows
        return known and position < limits.context and len(self._rows) < limits.tree

    def _drafted(self, tree: Growing) -> DraftTree:
        nodes = list(self._rows)
        parents = [ROOT if node == 0 else self._rows[tree.parents[node]] for node in nodes]
        tokens = [self.vocabulary.to_draft(tree.tokens[node]) for node in nodes]
        return DraftTree(tuple(tokens), tuple(parents), (0.0,) * len(nodes), (SOURCE,) * len(nodes))

    def _read(self, tree: Growing, nodes: list[int], logits: torch.Tensor) -> list[Proposal]:
        setting = self.setting
        paths = [tree.path(node) for node in nodes] if setting.sampling.penalises else [[]] * len(nodes)
        x = scale(setting.penalties.apply(self.vocabulary.to_target(logits), paths), setting.sampling)
        x = self._corrected(tree, nodes, x)
        noise = torch.stack([setting.noise.at(setting.position_below(tree.depth[node])) for node in nodes])
        filtered = cut(x, setting.sampling)
        found = self._likely(x, noise) if filtered is None else self._likely_among(filtered, noise)
        columns = [column.cpu().double().numpy() for column in found]
        return [made for row, node in enumerate(nodes) for made in self._propose(tree, node, *(c[row] for c in columns))]

    def _corrected(self, tree: Growing, nodes: list[int], x: torch.Tensor) -> torch.Tensor:
        """x with the draft's known errors taken off; what it was is kept, to learn from."""
        room = max(0, KEPT_BYTES // (4 * x.shape[1]) - len(self._logits))
        self._logits.update(zip(nodes[:room], x[:room].clone(), strict=False))
        for node in nodes:
            above = self._before[tree.parents[node]] if node else tuple(self.setting.context[-LONGEST - 1 : -1])
            self._before[node] = (*above, tree.tokens[node])[-LONGEST:]
        return self._corrections.apply(x, [self._before[node] for node in nodes], self._temperature)

    def _likely(self, x: torch.Tensor, noise: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """(score, ids, log q, noise) [n, WIDTH] of the best a log q + b g; log q and x differ by a constant of the row."""
        z, ids = top(x if self.setting.noise.silent else torch.add(noise * self.belief.b, x, alpha=self.belief.a), WIDTH)
        return z, ids, x.gather(1, ids) - x.logsumexp(-1, keepdim=True), noise.gather(1, ids)

    def _likely_among(self, filtered: Cut, noise: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The same among those that pass the person's filters; -inf fills up."""
        g = noise.gather(1, filtered.ids)
        z = (self.belief.a * filtered.values + self.belief.b * g).masked_fill(filtered.out, -torch.inf)
        z, places = z.topk(min(WIDTH, z.shape[1]), dim=-1)
        log_q = filtered.values - filtered.log_sum_exp[:, None]
        return z, filtered.ids.gather(1, places), log_q.gather(1, places), g.gather(1, places)

    def _propose(self, tree: Growing, node: int, z: Vector, ids: Vector, log_q: Vector, noise: Vector) -> list[Proposal]:
        kept = np.isfinite(z)
        candidates = Candidates(ids[kept].astype(np.int64), log_q[kept], noise[kept])
        self._candidates[node] = candidates
        scores = self.belief.scores(candidates)
        likely = np.flatnonzero(scores + tree.score[node] > tree.floor)
        return [Proposal(node, int(candidates.ids[i]), float(scores[i]), SOURCE) for i in likely]
