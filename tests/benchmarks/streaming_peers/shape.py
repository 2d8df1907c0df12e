"""The sizes of a Llama-shaped model, and the names and sizes of its matrices."""

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Shape:
    """width, ffn, vocab: rows or columns; theta: the base of the rotary frequencies. Embedding and head are two matrices."""

    name: str
    width: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    vocab: int
    theta: float = 500000.0
    context: int = 8192
    eps: float = 1e-5

    def layer(self) -> Iterator[tuple[str, tuple[int, int]]]:
        """(matrix by its Hugging Face name within a layer, (rows, columns))."""
        queries, keys = self.heads * self.head_dim, self.kv_heads * self.head_dim
        yield "self_attn.q_proj", (queries, self.width)
        yield "self_attn.k_proj", (keys, self.width)
        yield "self_attn.v_proj", (keys, self.width)
        yield "self_attn.o_proj", (self.width, queries)
        yield "mlp.gate_proj", (self.ffn, self.width)
        yield "mlp.up_proj", (self.ffn, self.width)
        yield "mlp.down_proj", (self.width, self.ffn)


SHAPES = {shape.name: shape for shape in (
    Shape("llama-3.1-70b", 8192, 80, 64, 8, 128, 28672, 128256),
    Shape("llama-3.1-8b", 4096, 32, 32, 8, 128, 14336, 128256),
)}


def shape_of(text: str) -> Shape:
    """By name, or of a config.json. Exits with two lines for what is neither, or no plain Llama."""
    if text in SHAPES:
        return SHAPES[text]
    try:
        return configured(text, json.loads(Path(text).read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, AttributeError) as error:
        sys.exit(f"{text} is no shape: {error!r}\none of {', '.join(SHAPES)}, or the config.json of a Llama")


def configured(name: str, config: dict[str, int]) -> Shape:
    """Raises KeyError or ValueError."""
    if config.get("model_type", "llama") != "llama" or config.get("tie_word_embeddings"):
        raise ValueError("only Llamas with a head of their own are written here")
    heads, width = config["num_attention_heads"], config["hidden_size"]
    rope = config.get("rope_parameters") or config
    return Shape(name, width, config["num_hidden_layers"], heads, config.get("num_key_value_heads", heads),
                 config.get("head_dim") or width // heads, config["intermediate_size"], config["vocab_size"],
                 rope.get("rope_theta", 10000.0), config.get("max_position_embeddings", 8192), config.get("rms_norm_eps", 1e-5))
