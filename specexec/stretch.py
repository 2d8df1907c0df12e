"""Plain decoding for a while: passes of one token each, with next to nothing between them."""

from collections.abc import Callable

import torch

from specexec.kernels.logits import First
from specexec.noise import Noise
from specexec.sampling import Sampling
from specexec.top import ordered
from specexec.verify import Verdict, pick


class Stretch:
    """What `Target.extend` picks with. position: of the first token. most: of them. ends: ids that end an answer."""

    def __init__(self, position: int, sampling: Sampling, noise: Noise, most: int, ends: frozenset[int]) -> None:
        self.position, self.sampling, self.noise, self.most, self.ends = position, sampling, noise, most, ends
        self.tokens: list[int] = []
        self.margins: list[float] = []
        self._pick: Callable[[torch.Tensor], tuple[int, float]] | None = None

    def __call__(self, logits: torch.Tensor) -> int | None:
        if self._pick is None:  # greedy picks are the largest logits
            self._pick = First(logits.shape[-1]) if self.noise.silent and ordered(logits) else self._sampled
        token, margin = self._pick(logits)
        self.tokens.append(token)
        self.margins.append(margin)
        return None if token in self.ends or len(self.tokens) >= self.most else token

    def _sampled(self, logits: torch.Tensor) -> tuple[int, float]:
        noise = [] if self.noise.silent else [self.noise.at(self.position + len(self.tokens))]
        (token,), (margin,) = pick(logits, self.sampling, noise)[0]
        return token, margin

    @property
    def verdict(self) -> Verdict:
        return Verdict((0,), tuple(self.tokens), tuple(self.margins))
