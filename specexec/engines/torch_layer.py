"""One decoder layer in plain torch, of every family that families.admit knows: grouped queries, then a gated feed-forward."""

from collections.abc import Callable

import torch
from torch.nn import functional

from specexec.engines.architecture import Architecture
from specexec.engines.product import Product
from specexec.engines.tensors import Tensors, check, shaped
from specexec.kernels import rows

Attend = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
"""attend(scaled q[heads, n, dim], k[kv_heads, n, dim], v of the same) -> [heads, n, dim]."""


class TorchLayer:
    """A layer's tensors, bound to what computes with them; nothing is copied. Raises Damaged where they are not a layer's."""

    def __init__(self, tensors: Tensors, config: Architecture) -> None:
        check(tensors, config)
        self._held, self.config = tensors, config
        width, ffn, dim = config.hidden_size, config.intermediate_size, config.head_dim
        q, kv = config.num_attention_heads * dim, config.num_key_value_heads * dim
        self.q, self.k, self.v, self.o, self.gate, self.up, self.down = (
            Product.of(tensors, f"{part}_proj", *shape) for part, shape in {
                "self_attn.q": (q, width), "self_attn.k": (kv, width), "self_attn.v": (kv, width), "self_attn.o": (width, q),
                "mlp.gate": (ffn, width), "mlp.up": (ffn, width), "mlp.down": (width, ffn)}.items())
        self.input_norm, self.post_norm = (shaped(tensors, f"{name}_layernorm.weight", width)
                                           for name in ("input", "post_attention"))
        self.q_norm, self.k_norm = (shaped(tensors, name, dim) if name in tensors else None
                                    for name in ("self_attn.q_norm.weight", "self_attn.k_norm.weight"))

    def forward(self, x: torch.Tensor, angles: torch.Tensor, attend: Attend) -> torch.Tensor:
        """x[n, width] through it. angles: [2, n, 1, dim], cosines, and sines that `turned` asks for."""
        x = x + self._attention(normed(x, self.input_norm, self.config.rms_norm_eps), angles, attend)
        return x + self._mlp(normed(x, self.post_norm, self.config.rms_norm_eps))

    def _attention(self, x: torch.Tensor, angles: torch.Tensor, attend: Attend) -> torch.Tensor:
        q, k, v = (part.view(len(x), -1, self.config.head_dim) for part in (self.q(x), self.k(x), self.v(x)))
        if self.q_norm is not None and self.k_norm is not None:
            q, k = (normed(of, norm, self.config.rms_norm_eps) for of, norm in ((q, self.q_norm), (k, self.k_norm)))
        q, k = torch.split(turned(torch.cat((q, k), 1), angles), [q.shape[1], k.shape[1]], 1)
        mixed = attend((q * self.config.head_dim**-0.5).transpose(0, 1), k.transpose(0, 1), v.transpose(0, 1))
        return self.o(mixed.transpose(0, 1).reshape(len(x), -1))

    def _mlp(self, x: torch.Tensor) -> torch.Tensor:
        return self.down(functional.silu(self.gate(x), inplace=True).mul_(self.up(x)))


def normed(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """RMSNorm (arXiv 1910.07467) over the last dimension, computed in fp32: torch's is eight operators on a CPU."""
    if rows.norms(x.device, x.dtype):
        return rows.norm(x.contiguous(), weight, eps)
    return functional.rms_norm(x, weight.shape, weight, eps)


def turned(x: torch.Tensor, angles: torch.Tensor) -> torch.Tensor:
    """RoPE (arXiv 2104.09864) of x[n, heads, dim], whose halves are the two of a pair. angles: [2, n, 1, dim], by `doubled`."""
    return (x * angles[0]).addcmul_(x.roll(x.shape[-1] // 2, -1), angles[1])


def doubled(angles: torch.Tensor) -> torch.Tensor:
    """[2, n, 1, dim] of fp32[n, 2, dim/2]: the cosines twice, and the sines, of which the first half subtracts."""
    cosines, sines = angles[:, :1], angles[:, 1:]
    return torch.stack((torch.cat((cosines, cosines), -1), torch.cat((-sines, sines), -1)))
