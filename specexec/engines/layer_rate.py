"""What a layer of a pass takes besides its products and its attention: calls, norms, threads that wait for each other.

Between layers other memory is read, as weights, keys and values are of a model: what was near is in no cache any more.
"""

import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from specexec.engines.families import admit
from specexec.engines.kernel_engine import KernelEngine
from specexec.formats import quantise
from specexec.kernels import library, sources
from specexec.tree import DraftTree

LAYERS, WIDTH, CONTEXT = 8, 256, 64  # so small that weights and rows take no time
BETWEEN = 2**26  # bytes that are read before a layer
PASSES = 5
TINY: Mapping[str, Any] = {
    "model_type": "llama", "hidden_size": WIDTH, "num_hidden_layers": LAYERS, "intermediate_size": WIDTH, "vocab_size": WIDTH,
    "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": WIDTH // 2, "max_position_embeddings": CONTEXT,
}
SHAPES = {"self_attn.q_proj": (WIDTH, WIDTH), "self_attn.k_proj": (WIDTH // 2, WIDTH), "self_attn.v_proj": (WIDTH // 2, WIDTH),
          "self_attn.o_proj": (WIDTH, WIDTH), **{f"mlp.{name}_proj": (WIDTH, WIDTH) for name in ("gate", "up", "down")}}


def name(bits: int) -> str:
    """Of what `seconds` measures: another name wherever the figure may be another one. bits: of activations."""
    return f"{library.instruction_set()} kernels {sources.version()}, {bits}-bit activations, {torch.get_num_threads()} threads"


def seconds(bits: int, between: int = BETWEEN) -> float:
    """Of a layer in a pass of one token, on the kernels: the median pass of a tiny model, shared among its layers."""
    source = _Tiny(between)
    engine = KernelEngine(admit(TINY), source, WIDTH, bits)
    took = []
    for _ in range(1 + PASSES):
        began, source.reading = time.perf_counter(), 0.0
        engine.forward(DraftTree((1,)), lambda first, logits: None)
        took.append(time.perf_counter() - began - source.reading)
    return statistics.median(took[1:]) / LAYERS


class _Tiny:
    """Implements WeightSource: one layer, as often as it is asked for. reading: seconds spent on other memory before it."""

    def __init__(self, between: int) -> None:
        self.reading, self._other = 0.0, torch.ones(between // 8, dtype=torch.int64)
        self._layer = {f"{norm}_layernorm.weight": torch.ones(WIDTH) for norm in ("input", "post_attention")}
        for of, (rows, columns) in SHAPES.items():
            self._layer |= _matrix(of, torch.randn(rows, columns), "nf4")
        self._resident = {"model.norm.weight": torch.ones(WIDTH), **_matrix("lm_head", torch.randn(WIDTH, WIDTH), "int8")}

    def resident(self) -> Mapping[str, torch.Tensor]:
        return self._resident

    def embed(self, tokens: Sequence[int]) -> torch.Tensor:
        return torch.ones(len(tokens), WIDTH)

    @contextmanager
    def layer(self, index: int) -> Iterator[Mapping[str, torch.Tensor]]:
        began = time.perf_counter()
        self._other.sum()
        self.reading += time.perf_counter() - began
        yield self._layer


def _matrix(of: str, weight: torch.Tensor, kind: str) -> dict[str, torch.Tensor]:
    made = quantise(weight, kind, "tile16")
    return {f"{of}.weight": made.codes, f"{of}.scales": made.scales}
