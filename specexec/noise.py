"""The noise every sampler and drafter of one answer shares: Gumbel variables from a counter.   Philox, Salmon et al. 2011

g[v] depends on the seed, the answer's number in its conversation, the token's index within the answer and the token's id,
and on nothing else: not on the drafter, the tree, the budget or the vocabulary's size.
"""

from collections import OrderedDict
from dataclasses import dataclass, field

import numpy as np
import torch

SEEDS = 2**64
KEPT = 64  # positions; a deep tree revisits each level many times


def gumbel(seed: int, answer: int, index: int, size: int) -> torch.Tensor:
    """fp32[size]: -log(-log u) in float64 of 53-bit uniforms in (0, 1), rounded once."""
    bits = np.random.Philox(key=seed % SEEDS, counter=[0, 0, index, answer]).random_raw(size)
    uniform = ((bits >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53
    return torch.from_numpy((-np.log(-np.log(uniform))).astype(np.float32))


@dataclass
class Noise:
    """One answer's noise, by absolute position in the context.

    origin: position of the answer's first token. silent: the greedy case, zeros everywhere.
    """

    seed: int
    answer: int
    origin: int
    size: int
    silent: bool = False
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    _kept: OrderedDict[int, torch.Tensor] = field(default_factory=OrderedDict, repr=False)

    def at(self, position: int) -> torch.Tensor:
        """fp32[size]: the noise of the token that stands at `position`."""
        if position not in self._kept:
            self._kept[position] = self._fresh(position - self.origin).to(self.device)
            if len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        return self._kept[position]

    def _fresh(self, index: int) -> torch.Tensor:
        return torch.zeros(self.size) if self.silent else gumbel(self.seed, self.answer, index, self.size)
