"""Plain decoding for a while: passes of one token each, with next to nothing between them."""

import torch

from specexec.noise import Noise
from specexec.sampling import Sampling
from specexec.verify import Verdict, pick


class Stretch:
    """Implements Pick. position: where the first picked token will stand. most: tokens. ends: ids that end an answer."""

    def __init__(self, position: int, sampling: Sampling, noise: Noise, most: int, ends: frozenset[int]) -> None:
        self.position, self.sampling, self.noise, self.most, self.ends = position, sampling, noise, most, ends
        self.tokens: list[int] = []
        self.margins: list[float] = []

    def __call__(self, logits: torch.Tensor) -> int | None:
        noise = [] if self.noise.silent else [self.noise.at(self.position + len(self.tokens))]
        (token,), (margin,) = pick(logits, self.sampling, noise)[0]
        self.tokens.append(token)
        self.margins.append(margin)
        return None if token in self.ends or len(self.tokens) >= self.most else token

    @property
    def verdict(self) -> Verdict:
        return Verdict((0,), tuple(self.tokens), tuple(self.margins))
