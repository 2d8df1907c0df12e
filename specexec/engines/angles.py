"""RoPE's cosines and sines by position, made in whole blocks: a position's are the same whatever pass asks for them."""

from collections.abc import Sequence

import torch

BLOCK = 1024
CPU = torch.device("cpu")


class Angles:
    """frequencies: fp32[head_dim/2], as rope.frequencies has them, with their scaling. device: where they are wanted."""

    def __init__(self, frequencies: torch.Tensor, scaling: float, device: torch.device = CPU) -> None:
        self.frequencies, self.scaling = frequencies, scaling
        self._known = torch.empty(0, 2, len(self.frequencies), device=device)

    def at(self, positions: Sequence[int]) -> torch.Tensor:
        """fp32[n, 2, head_dim/2]."""
        while max(positions) >= len(self._known):
            self._known = torch.cat((self._known, self._block(len(self._known)).to(self._known.device)))
        if len(positions) == 1:
            return self._known[positions[0] : positions[0] + 1]
        return self._known[torch.tensor(positions, device=self._known.device)]

    def _block(self, start: int) -> torch.Tensor:
        turned = torch.arange(start, start + BLOCK).float()[:, None] * self.frequencies
        both = torch.stack((turned.double().cos(), turned.double().sin()), 1)
        return (both * self.scaling).float()
