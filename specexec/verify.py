"""One rule of verification: at every node the target picks, and the walk follows its picks.

pick = argmax_v (log p[v] + g[v]) is an exact sample of p (Gumbel-max), and everybody knows g: the text depends on the
target and the seed alone.   Shared noise: Daliri, Musco, Suresh 2024
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from specexec.noise import Noise
from specexec.sampling import Cut, Penalties, Sampling, cut, scale
from specexec.top import Best, Winner, best, winner
from specexec.tree import DraftTree

KEPT = 32


class Picks:
    """Reads rows of the target's logits; keeps a node's pick and its margin, and of its law the top 32 and the log-sum-exp.

    position: of node 0 in the context. The pick of a node at depth d takes the noise of position + d + 1. laws: whether those
    are wanted, for somebody to learn from.
    """

    def __init__(
        self, tree: DraftTree, position: int, sampling: Sampling, noise: Noise, penalties: Penalties, laws: bool = True
    ) -> None:
        self.tree, self.position, self.sampling = tree, position, sampling
        self.noise, self.penalties, self.laws = noise, penalties, laws
        n = len(tree)
        self.tokens: list[int] = [-1] * n
        self.margins: list[float] = [0.0] * n  # logits by which the pick won
        self.log_sum_exp: list[float] = [0.0] * n
        self.top_ids: list[list[int]] = [[]] * n
        self.top_logits: list[list[float]] = [[]] * n

    def __call__(self, first: int, logits: torch.Tensor) -> None:
        nodes = range(first, first + logits.shape[0])
        noise = [] if self.noise.silent else [self._noise(node) for node in nodes]
        won, law = pick(self.penalties.apply(logits, self._paths(nodes)), self.sampling, noise, self.laws)
        self.tokens[nodes.start : nodes.stop], self.margins[nodes.start : nodes.stop] = won
        if law is not None:
            self._keep(nodes, law)

    def _keep(self, nodes: range, law: Best) -> None:
        for node, row in zip(nodes, zip(*(column.tolist() for column in law), strict=True), strict=True):
            self.top_logits[node], self.top_ids[node], self.log_sum_exp[node] = row

    def _noise(self, node: int) -> torch.Tensor:
        return self.noise.at(self.position + self.tree.depth[node] + 1)

    def _paths(self, nodes: range) -> list[list[int]]:
        if not self.sampling.penalises:
            return [[]] * len(nodes)
        return [[self.tree.tokens[i] for i in self.tree.path(node)[1:]] for node in nodes]


def pick(
    logits: torch.Tensor, sampling: Sampling, noise: Sequence[torch.Tensor], laws: bool = False
) -> tuple[Winner, Best | None]:
    """What wins each row of fp32[n, V], by how much in these logits, and its law if that is wanted.

    noise: fp32[V] of each row, or none.
    """
    x = scale(logits, sampling)
    filtered = cut(x, sampling)
    law = (best(x, KEPT) if filtered is None else _kept_of(filtered)) if laws else None
    won = winner(x, noise, law) if filtered is None else _choose_among(filtered, noise)
    scaled = sampling.divisor  # back to the engine's own logits, where rounding is measured
    return (won if scaled == 1 else Winner(won.token, [lead * scaled for lead in won.lead])), law


def _kept_of(filtered: Cut) -> Best:
    return Best(filtered.values[:, :KEPT], filtered.ids[:, :KEPT], filtered.log_sum_exp)


def _choose_among(filtered: Cut, noise: Sequence[torch.Tensor]) -> Winner:
    """Among those that passed the filters; the lead is also the least change of a filter that would change the pick."""
    known = [row[ids] for row, ids in zip(noise, filtered.ids, strict=True)]  # a filter is for sampling: there is noise
    noisy = filtered.values + torch.stack(known)
    first, second = noisy.masked_fill(filtered.out, -torch.inf).topk(2).values.unbind(-1)
    most = ~filtered.out & (noisy == first[:, None])
    tokens = filtered.ids.masked_fill(~most, torch.iinfo(torch.int64).max).amin(-1)  # the lowest id wins a tie
    rivals = (filtered.out & (noisy >= first[:, None])) | (filtered.ids == tokens[:, None])
    lead = torch.minimum(first - second, filtered.clearance.masked_fill(~rivals, torch.inf).amin(-1))
    return Winner(tokens.tolist(), lead.tolist())


@dataclass(frozen=True)
class Verdict:
    path: tuple[int, ...]  # nodes from 0 on whose picks the walk followed
    tokens: tuple[int, ...]  # what the pass adds: the accepted nodes' tokens, then the bonus
    margins: tuple[float, ...]  # of those tokens


def verify(tree: DraftTree, picks: Picks) -> Verdict:
    """Follows the picks from node 0 to the first that the tree does not hold; that pick is the bonus token."""
    path = [0]
    for node in range(1, len(tree)):  # children come after their parents
        if tree.parents[node] == path[-1] and tree.tokens[node] == picks.tokens[path[-1]]:
            path.append(node)
    return Verdict(tuple(path), tuple([picks.tokens[i] for i in path]), tuple([picks.margins[i] for i in path]))
