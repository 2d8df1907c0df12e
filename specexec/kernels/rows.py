"""Norms, SiLU and RoPE, one token's row at a time in a fixed order (rows.cpp), and what they are in plain torch."""

import ctypes
from dataclasses import dataclass

import torch
from torch.nn import functional

from specexec.kernels import table
from specexec.kernels.linear import Activations
from specexec.kinds import GROUP


def norms(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether there is a kernel for norms of such tensors."""
    return device.type == "cpu" and dtype == torch.float32 and table.table() is not None


def norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """RMS norm of contiguous fp32 x[..., columns] with fp32 weight[columns].   Zhang and Sennrich 2019"""
    out, columns = torch.empty_like(x), len(weight)
    table.needed().norm(x.data_ptr(), weight.data_ptr(), x.numel() // columns, columns, eps, out.data_ptr(), table.threads())
    return out


def norm_quantise(x: torch.Tensor, weight: torch.Tensor, eps: float, to: Activations) -> None:
    """The same, to activations."""
    table.needed().norm_quantise(x.data_ptr(), weight.data_ptr(), x.shape[1], eps, ctypes.byref(to.struct()))


def silu_quantise(gate_up: torch.Tensor, to: Activations) -> None:
    """silu(gate) * up of fp32 gate_up[n, 2, columns], to activations."""
    table.needed().silu_quantise(gate_up.data_ptr(), to.columns, ctypes.byref(to.struct()))


@dataclass(frozen=True)
class Rope:
    """How joined projections become roped queries, keys and values.

    q_norm, k_norm: fp32[head_dim], norms of each head (Qwen3), or None. scaling: of the queries.
    """

    heads: int
    head_dim: int
    scaling: float
    eps: float
    q_norm: torch.Tensor | None = None
    k_norm: torch.Tensor | None = None


def rope(qkv: torch.Tensor, angles: torch.Tensor, how: Rope, q: torch.Tensor, cache: table.Cache, row: int) -> None:
    """fp32 qkv[n, (heads + 2 kv_heads) head_dim]: queries to fp32 q[n, heads, dim], keys and values to `cache` from `row` on.

    angles: fp32[n, 2, head_dim/2], cosines and sines. dim: the cache's, head_dim filled with zeros up to whole 32s.
    """
    norms = [n.data_ptr() if n is not None else None for n in (how.q_norm, how.k_norm)]
    what = table.Rope(qkv.data_ptr(), angles.data_ptr(), *norms, q.data_ptr(), len(qkv), how.heads, how.head_dim, row,
                      how.eps, how.scaling, table.threads())
    table.needed().rope(ctypes.byref(what), ctypes.byref(cache))


def norm_reference(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """float64."""
    x = x.double()
    return x * (x.pow(2).mean(-1, keepdim=True) + eps).rsqrt() * weight.double()


def silu_reference(gate_up: torch.Tensor) -> torch.Tensor:
    """float64[n, columns]."""
    gate, up = gate_up.double().unbind(1)
    return functional.silu(gate) * up


def turn_reference(x: torch.Tensor, angles: torch.Tensor) -> torch.Tensor:
    """float64 x[n, heads, head_dim] turned by angles[n, 2, head_dim/2].   RoPE, Su et al. 2021"""
    c, s = angles.double().unsqueeze(2).unbind(1)
    a, b = x.double().chunk(2, -1)
    return torch.cat((a * c - b * s, b * c + a * s), -1)


def padded(columns: int) -> int:
    """Up to whole groups: so long are rows the kernels read by groups."""
    return -(-columns // GROUP) * GROUP
