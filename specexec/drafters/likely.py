"""The likeliest picks among rows of a draft's logits, knowing the noise: one call of our kernel, or plain torch.

The person's filters count as well: what they leave of the draft's own law. Those run in torch.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from specexec.drafters.belief import Candidates, scores
from specexec.drafters.corrections import added
from specexec.kernels import logits
from specexec.kernels.logits import Off, Ranking
from specexec.online import Ids, Vector
from specexec.sampling import Cut, Sampling, cut, scale
from specexec.top import best

WIDTH = 32  # children looked at below a node


class Likely(NamedTuple):
    """Of n rows. kept, own: fp32[m, V] of the first rows at the temperature, as they are, and their log-sum-exp."""

    candidates: list[Candidates]
    scores: list[Vector]  # of the candidates
    kept: torch.Tensor
    own: Vector


@dataclass(frozen=True)
class Taste:
    """What makes a pick likely."""

    sampling: Sampling
    ranking: Ranking

    def likely(self, x: torch.Tensor, off: Off, keeps: int) -> Likely:
        """Of fp32 x[n, V] after the penalties, and what its rows are off by at the temperature. keeps: rows that are kept."""
        width = min(WIDTH, x.shape[-1])
        if self.sampling.filters or not logits.fits(x, width):
            return self._plainly(x, off, keeps)
        kept = torch.empty(min(keeps, len(x)), x.shape[-1])
        found = logits.guess(x, width, self.ranking, self.sampling.divisor, off, kept)
        candidates = _candidates(found.ids, found.log_q, found.noise)
        return Likely(candidates, [row[np.isfinite(row)] for row in found.scores], kept, found.own)

    def _plainly(self, x: torch.Tensor, off: Off, keeps: int) -> Likely:
        own = scale(x, self.sampling)
        kept = own[:keeps].clone()  # it may be the engine's own
        x = added(own, off)
        filtered = cut(x, self.sampling)
        ids, log_q, g = self._best(x) if filtered is None else self._best_of(filtered)
        made = _candidates(ids.cpu().numpy(), log_q.cpu().double().numpy(), g.cpu().double().numpy())
        weighed = [scores(one, self.ranking.a, self.ranking.b) for one in made]
        return Likely(made, weighed, kept, _log_sum_exp(kept).cpu().double().numpy())

    def _best(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """(ids, log q, noise) [n, k] of the first; log q and x differ by a constant of the row."""
        _, ids, total = best(x, WIDTH, *self.ranking[:3])
        return ids, x.gather(1, ids) - total[:, None], self._noise(ids)

    def _best_of(self, filtered: Cut) -> tuple[torch.Tensor, ...]:
        """The same among those that pass the person's filters; -inf fills up."""
        g = self._noise(filtered.ids)
        z = (self.ranking.a * filtered.values + self.ranking.b * g).masked_fill(filtered.out, -torch.inf)
        z, places = z.topk(min(WIDTH, z.shape[1]), dim=-1)
        log_q = (filtered.values - filtered.log_sum_exp[:, None]).gather(1, places)
        return filtered.ids.gather(1, places), log_q.masked_fill(z.isneginf(), -torch.inf), g.gather(1, places)

    def _noise(self, ids: torch.Tensor) -> torch.Tensor:
        if not self.ranking.noise:
            return torch.zeros(ids.shape, device=ids.device)
        return torch.stack([row[some] for row, some in zip(self.ranking.noise, ids, strict=True)])


def _log_sum_exp(x: torch.Tensor) -> torch.Tensor:
    return best(x, 1).log_sum_exp if len(x) else x.new_empty(0)


def _candidates(ids: Ids, log_q: Vector, noise: Vector) -> list[Candidates]:
    """Of each row those whose log q is finite."""
    if (some := np.isfinite(log_q)).all():
        return [*map(Candidates, ids, log_q, noise)]
    return [Candidates(*(part[at] for part in row)) for at, *row in zip(some, ids, log_q, noise, strict=True)]
