"""A Hugging Face folder of a shape with random bf16 weights, a shard for each layer, written one after the other."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from transformers import LlamaConfig

from tests.benchmarks.streaming_peers.noise import Noise
from tests.benchmarks.streaming_peers.room import ask, making
from tests.benchmarks.streaming_peers.shape import Shape

Sizes = dict[str, tuple[int, ...]]


def shards(shape: Shape) -> Iterator[Sizes]:
    """Tensors of each by name."""
    yield {"model.embed_tokens.weight": (shape.vocab, shape.width)}
    for index in range(shape.layers):
        layer = f"model.layers.{index}"
        norms = {f"{layer}.{name}.weight": (shape.width,) for name in ("input_layernorm", "post_attention_layernorm")}
        yield {f"{layer}.{name}.weight": size for name, size in shape.layer()} | norms
    yield {"model.norm.weight": (shape.width,), "lm_head.weight": (shape.vocab, shape.width)}


def make(shape: Shape, out: Path, leave: bool) -> None:
    """Writes `out`; memory holds one shard. Exits with two lines where it cannot."""
    every = list(shards(shape))
    nbytes = sum(int(np.prod(size)) * 2 for sizes in every for size in sizes.values())
    ask(out, nbytes, leave)
    noise, held = Noise(), {}
    with making(out) as part:
        part.mkdir()
        for index, sizes in enumerate(every):
            name = f"model-{index + 1:05}-of-{len(every):05}.safetensors"
            save_file({tensor: drawn(noise, size) for tensor, size in sizes.items()}, part / name, {"format": "pt"})
            settle(part / name)
            held |= dict.fromkeys(sizes, name)
        index = {"metadata": {"total_size": nbytes}, "weight_map": held}
        (part / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
        configuration(shape).save_pretrained(part)


def drawn(noise: Noise, size: tuple[int, ...]) -> torch.Tensor:
    """bf16 of this size; ones for a norm."""
    if len(size) == 1:
        return torch.ones(size, dtype=torch.bfloat16)
    bits = np.empty(size, np.uint16)
    flat, start = bits.reshape(-1).view(np.uint8), 0
    for piece in noise.bf16(*size):
        flat[start : start + piece.size] = piece.reshape(-1)
        start += piece.size
    return torch.from_numpy(bits).view(torch.bfloat16)


def settle(path: Path) -> None:
    """On the disk when this returns, or dropping caches would leave it in memory."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def configuration(shape: Shape) -> LlamaConfig:
    return LlamaConfig(architectures=["LlamaForCausalLM"], vocab_size=shape.vocab, hidden_size=shape.width,
                       intermediate_size=shape.ffn, num_hidden_layers=shape.layers, num_attention_heads=shape.heads,
                       num_key_value_heads=shape.kv_heads, head_dim=shape.head_dim, max_position_embeddings=shape.context,
                       rms_norm_eps=shape.eps, rope_parameters={"rope_type": "default", "rope_theta": shape.theta},
                       tie_word_embeddings=False, dtype="bfloat16")
