"""The attention function that transformers' models call: it hands the work to the pass's KV cache."""

from typing import Any, Protocol

import torch
from transformers import AttentionInterface

from specexec.engines.families import refuse_unknown
from specexec.kv.cache import KVCache, Rows

NAME = "specexec"


class Run(Protocol):
    """What one forward knows and every layer needs."""

    cache: KVCache
    attended: int

    def rows(self, window: int | None, softcap: float | None) -> Rows: ...


def attend(
    module: torch.nn.Module, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, attention_mask: None, *,
    run: Run, scaling: float, sliding_window: int | None = None, softcap: float | None = None, **others: Any,
) -> tuple[torch.Tensor, None]:
    """query[1, heads, n, dim] after RoPE, key and value[1, kv_heads, n, dim] -> [1, n, heads, dim]."""
    refuse_unknown(others)
    run.attended += 1
    layer = module.layer_idx
    assert isinstance(layer, int)
    out = run.cache.attend(layer, query[0] * scaling, key[0], value[0], run.rows(sliding_window, softcap))
    return out.transpose(0, 1).unsqueeze(0), None


AttentionInterface.register(NAME, attend)
