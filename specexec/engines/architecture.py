"""What a model is, as its config.json says."""

from dataclasses import dataclass, field

import torch


@dataclass(frozen=True)
class Architecture:
    """Of a family that families.admit knows. Names and units are config.json's own.

    windows: positions that each layer's attention sees, None for all. frequencies: fp32[head_dim/2], RoPE's (rope.py), whose
    cosines and sines are multiplied by rope_scaling. tensors: the names of those that each layer has; spare: of those that
    it may have besides.
    """

    model_type: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    max_position_embeddings: int
    rms_norm_eps: float
    tie_word_embeddings: bool
    windows: tuple[int | None, ...]
    tensors: frozenset[str]
    spare: frozenset[str]
    frequencies: torch.Tensor = field(repr=False, compare=False)
    rope_scaling: float
