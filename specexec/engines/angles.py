"""RoPE's cosines and sines by position, made in whole blocks: a position's are the same whatever pass asks for them."""

from collections.abc import Sequence

import torch
from transformers import PretrainedConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

BLOCK = 1024


class Angles:
    """config: of a family whose frequencies never change (families.FIXED_ROPE)."""

    def __init__(self, config: PretrainedConfig) -> None:
        rotary = LlamaRotaryEmbedding(config)
        self.frequencies: torch.Tensor = rotary.inv_freq.float()
        self.scaling = float(rotary.attention_scaling)
        self._known = torch.empty(0, 2, len(self.frequencies))

    def at(self, positions: Sequence[int]) -> torch.Tensor:
        """fp32[n, 2, head_dim/2]."""
        while max(positions) >= len(self._known):
            self._known = torch.cat((self._known, self._block(len(self._known))))
        return self._known[torch.tensor(positions)]

    def _block(self, start: int) -> torch.Tensor:
        turned = torch.arange(start, start + BLOCK).float()[:, None] * self.frequencies
        both = torch.stack((turned.double().cos(), turned.double().sin()), 1)
        return (both * self.scaling).float()
