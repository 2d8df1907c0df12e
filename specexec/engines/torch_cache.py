"""A KV cache in plain torch, in the format asked for."""

import torch

from specexec.engines.architecture import Architecture
from specexec.kv.dense import DenseCache
from specexec.kv.hierarchical_dense import HierarchicalDense
from specexec.kv.quantised import BITS


def kept(
    config: Architecture, kv: str, device: torch.device, most: int | None = None, tree: int | None = None,
) -> DenseCache:
    """An empty cache of a model's keys and values as int8 or int4, or for bf16 in the dtype they are computed in.

    most, tree: positions, and rows of a pass and of those below it, where all of it is to be taken at once.
    """
    layers = config.num_hidden_layers
    if kv not in BITS:
        return DenseCache(layers) if most is None or tree is None else DenseCache(layers, rows=most + tree)
    return HierarchicalDense(layers, config.num_key_value_heads, config.head_dim, BITS[kv], device, most, tree)
