"""One decoder layer on the CPU kernels: one call, whose arguments are made once."""

from collections.abc import Mapping
from ctypes import byref, pointer
from dataclasses import dataclass

import torch

from specexec.engines.tensors import packed, vector
from specexec.engines.workspace import Shape, Workspace, matrices
from specexec.kernels import linear, table


@dataclass(frozen=True)
class Step:
    """What every layer of one pass is given."""

    angles: torch.Tensor  # fp32[n, 2, head_dim/2]
    asked: table.Pass
    row: int  # of the first token in the cache


class KernelLayer:
    """A layer's tensors, bound to a workspace. Nothing is copied: the tensors' places are what counts."""

    def __init__(self, tensors: Mapping[str, torch.Tensor], shape: Shape, room: Workspace) -> None:
        self.room, self.shape, self.kernels, self._held = room, shape, table.needed(), tensors
        self.input_norm, self.post_norm = (vector(tensors, f"{name}_layernorm.weight", shape.width).data_ptr()
                                           for name in ("input", "post_attention"))
        q, kv = shape.q, shape.kv
        self.qkv = matrices(self._matrix("self_attn.q_proj", q, shape.width, room.qkv),
                            self._matrix("self_attn.k_proj", kv, shape.width, room.qkv[:, q:]),
                            self._matrix("self_attn.v_proj", kv, shape.width, room.qkv[:, q + kv :]))
        self.o = matrices(self._matrix("self_attn.o_proj", shape.width, q, room.x, adds=True))
        gate_up = room.gate_up.flatten(1)
        self.gate_up = matrices(self._matrix("mlp.gate_proj", shape.ffn, shape.width, gate_up),
                                self._matrix("mlp.up_proj", shape.ffn, shape.width, gate_up[:, shape.ffn :]))
        self.down = matrices(self._matrix("mlp.down_proj", shape.width, shape.ffn, room.x, adds=True))
        self.rope = self._rope()
        self.struct = self._struct()

    def _matrix(self, name: str, rows: int, columns: int, out: torch.Tensor, adds: bool = False) -> table.Matrix:
        bias = vector(self._held, f"{name}.bias", rows) if f"{name}.bias" in self._held else None
        return linear.matrix(packed(self._held, name, rows, columns, "tile16"), out, bias, adds)

    def _struct(self) -> table.Layer:
        s, room = self.shape, self.room
        return table.Layer(room.x.data_ptr(), self.input_norm, self.post_norm, self.qkv, self.o, self.gate_up, self.down,
                           pointer(self.rope), pointer(room.attention), pointer(room.width), pointer(room.mixed_in),
                           pointer(room.ffn), s.width, s.ffn, s.eps)

    def _rope(self) -> table.Rope:
        s, room = self.shape, self.room
        norms = [vector(self._held, name, s.head_dim).data_ptr() if name in self._held else None
                 for name in ("self_attn.q_norm.weight", "self_attn.k_norm.weight")]
        return table.Rope(room.qkv.data_ptr(), None, *norms, room.q.data_ptr(), 0, s.heads, s.head_dim, 0, s.eps,
                          s.head_dim**-0.5, 0)

    def forward(self, step: Step, cache: table.Cache) -> None:
        """The workspace's x through this layer."""
        self.rope.angles, self.rope.n, self.rope.row = step.angles.data_ptr(), step.asked.n, step.row
        self.rope.threads = step.asked.threads
        self.kernels.layer(byref(self.struct), byref(cache), byref(step.asked))
