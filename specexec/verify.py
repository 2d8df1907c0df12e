"""One rule of verification: at every node the target picks, and the walk follows its picks.

pick = argmax_v (log p[v] + g[v]) is an exact sample of p (Gumbel-max), and everybody knows g: the text depends on the
target and the seed alone.   Shared noise: Daliri, Musco, Suresh 2024
"""

from dataclasses import dataclass

import torch

from specexec.noise import Noise
from specexec.sampling import Cut, Penalties, Sampling, cut, scale
from specexec.top import top, winner
from specexec.tree import DraftTree

KEPT = 32


class Picks:
    """Reads rows of the target's logits; keeps a node's pick, its margin, its top 32 and its log-sum-exp.

    position: of node 0 in the context. The pick of a node at depth d takes the noise of position + d + 1.
    """

    def __init__(
        self, tree: DraftTree, position: int, sampling: Sampling, noise: Noise, penalties: Penalties
    ) -> None:
        self.tree, self.position, self.sampling = tree, position, sampling
        self.noise, self.penalties = noise, penalties
        n = len(tree)
        self.tokens: list[int] = [-1] * n
        self.margins: list[float] = [0.0] * n  # logits by which the pick won
        self.log_sum_exp: list[float] = [0.0] * n
        self.top_ids: list[list[int]] = [[]] * n
        self.top_logits: list[list[float]] = [[]] * n

    def __call__(self, first: int, logits: torch.Tensor) -> None:
        nodes = range(first, first + len(logits))
        x = scale(self.penalties.apply(logits, self._paths(nodes)), self.sampling)
        self._pick(nodes, x)
        values, ids = top(x, KEPT)
        for node, ids_, values_, lse in zip(nodes, ids.tolist(), values.tolist(), x.logsumexp(-1).tolist(), strict=True):
            self.top_ids[node], self.top_logits[node], self.log_sum_exp[node] = ids_, values_, lse

    def _pick(self, nodes: range, x: torch.Tensor) -> None:
        filtered = cut(x, self.sampling)
        noisy = x if self.noise.silent else x + torch.stack([self._noise(node) for node in nodes])
        found = winner(noisy if filtered is None else noisy.masked_fill(x < filtered.threshold, -torch.inf))
        lead = found.lead if filtered is None else torch.minimum(found.lead, _clearance(filtered, x, noisy, found.token))
        lead = lead * (self.sampling.temperature or 1.0)  # in the engine's own logits, where rounding is measured
        for node, token, margin in zip(nodes, found.token.tolist(), lead.tolist(), strict=True):
            self.tokens[node], self.margins[node] = token, margin

    def _noise(self, node: int) -> torch.Tensor:
        return self.noise.at(self.position + self.tree.depth[node] + 1)

    def _paths(self, nodes: range) -> list[list[int]]:
        if not self.sampling.penalises:
            return [[]] * len(nodes)
        return [[self.tree.tokens[i] for i in self.tree.path(node)[1:]] for node in nodes]


def _clearance(filtered: Cut, x: torch.Tensor, noisy: torch.Tensor, picks: torch.Tensor) -> torch.Tensor:
    """fp32[n]: the least change of a filter that would change the pick."""
    pick = picks[:, None]
    beats = (x.gather(1, filtered.ids) < filtered.threshold) & (noisy.gather(1, filtered.ids) >= noisy.gather(1, pick))
    return filtered.clearance.masked_fill(~(beats | (filtered.ids == pick)), torch.inf).amin(-1)


@dataclass(frozen=True)
class Verdict:
    path: tuple[int, ...]  # nodes from 0 on whose picks the walk followed
    tokens: tuple[int, ...]  # what the pass adds: the accepted nodes' tokens, then the bonus
    margins: tuple[float, ...]  # of those tokens


def verify(tree: DraftTree, picks: Picks) -> Verdict:
    """Follows the picks from node 0 to the first that the tree does not hold; that pick is the bonus token."""
    path = [0]
    while (token := picks.tokens[path[-1]]) in tree.children(path[-1]):
        path.append(tree.children(path[-1])[token])
    return Verdict(tuple(path), tuple(picks.tokens[i] for i in path), tuple(picks.margins[i] for i in path))
