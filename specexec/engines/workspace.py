"""Where one pass of the kernels puts what it computes: buffers for n tokens, and the structs that point into them."""

import ctypes
from dataclasses import dataclass

import torch

from specexec.engines.architecture import Architecture
from specexec.kernels import attention, table
from specexec.kernels.linear import Activations


@dataclass(frozen=True)
class Shape:
    """What a layer's buffers depend on: all in fp32 elements."""

    width: int
    ffn: int
    heads: int
    kv_heads: int
    head_dim: int
    eps: float

    @classmethod
    def of(cls, config: Architecture) -> "Shape":
        return cls(config.hidden_size, config.intermediate_size, config.num_attention_heads, config.num_key_value_heads,
                   config.head_dim, config.rms_norm_eps)

    @property
    def q(self) -> int:
        return self.heads * self.head_dim

    @property
    def kv(self) -> int:
        return self.kv_heads * self.head_dim


class Workspace:
    """Room for `most` tokens; `use` says how many there are now.

    x: fp32[most, width], the hidden states. qkv, gate_up: joined projections. q: roped queries. mixed: attention's result.
    """

    def __init__(self, shape: Shape, most: int, bits: int) -> None:
        self.most = most
        self.x = torch.empty(most, shape.width)
        self.qkv = torch.empty(most, shape.q + 2 * shape.kv)
        self.q = torch.empty(most, shape.heads, attention.padded(shape.head_dim))
        self.mixed = torch.empty(most, shape.heads, shape.head_dim)
        self.gate_up = torch.empty(most, 2, shape.ffn)
        columns = {"width": shape.width, "mixed": shape.q, "ffn": shape.ffn}
        self._activations = {name: Activations.empty(most, size, bits) for name, size in columns.items()}
        structs = {name: held.struct() for name, held in self._activations.items()}
        self.width, self.mixed_in, self.ffn = structs["width"], structs["mixed"], structs["ffn"]
        self.attention = table.Attention(self.q.data_ptr(), self.mixed.data_ptr(), None, shape.heads, shape.head_dim)

    def use(self, n: int) -> None:
        for activations in (self.width, self.mixed_in, self.ffn):
            activations.n, activations.threads = n, table.threads()


def matrices(*made: table.Matrix) -> "ctypes.Array[table.Matrix]":
    return (table.Matrix * len(made))(*made)
