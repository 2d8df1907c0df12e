"""The sizes of published models, and which of them a small model can be expanded to (expand.py)."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from offload.errors import Refused

ADMITTED = ("llama", "mistral", "qwen2")  # qwen3 norms queries and keys, which a model without such norms cannot become


def _config(kind: str, sizes: tuple[int, ...], vocabulary: int, context: int) -> dict[str, Any]:
    width, layers, heads, kv_heads, head_dim, ffn = sizes
    return {
        "model_type": kind, "hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": heads,
        "num_key_value_heads": kv_heads, "head_dim": head_dim, "intermediate_size": ffn, "vocab_size": vocabulary,
        "max_position_embeddings": context, "rms_norm_eps": 1e-5,
    }


SHAPES: Mapping[str, dict[str, Any]] = {
    "llama-3.1-70b": _config("llama", (8192, 80, 64, 8, 128, 28672), 128256, 131072),
    "llama-3.1-8b": _config("llama", (4096, 32, 32, 8, 128, 14336), 128256, 131072),
    "llama-3.2-1b": _config("llama", (2048, 16, 32, 8, 64, 8192), 128256, 131072),
    "qwen2.5-32b": _config("qwen2", (5120, 64, 40, 8, 128, 27648), 152064, 32768),
    "qwen2.5-0.5b": _config("qwen2", (896, 24, 14, 2, 64, 4864), 151936, 32768),
}
DRAFTS = {"llama": "llama-3.2-1b", "mistral": "llama-3.2-1b", "qwen2": "qwen2.5-0.5b"}  # a family's usual draft


@dataclass(frozen=True)
class Shape:
    """What of a configuration decides about bytes and arithmetic."""

    kind: str
    width: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    vocabulary: int
    biased: bool  # of q, k and v

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> "Shape":
        """Of what config.json says. Raises Refused where it says too little."""
        try:
            kind, width, heads = str(config["model_type"]), int(config["hidden_size"]), int(config["num_attention_heads"])
            return cls(
                kind, width, int(config["num_hidden_layers"]), heads, int(config.get("num_key_value_heads") or heads),
                int(config.get("head_dim") or width // heads), int(config["intermediate_size"]), int(config["vocab_size"]),
                kind == "qwen2" or bool(config.get("attention_bias")))
        except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
            raise Refused(f"this configuration describes no shape: {error}", hint=f"--shape {next(iter(SHAPES))}") from error


def check(small: Shape, large: Shape) -> None:
    """Raises Refused where `small` cannot become `large` and still write the same text."""
    if why := _why_not(small, large):
        raise Refused(f"the small model cannot take this shape: {why}.", hint=f"--shape {', '.join(SHAPES)}")


def _why_not(small: Shape, large: Shape) -> str | None:
    if large.kind not in ADMITTED:
        return f'it is of type "{large.kind}", not {", ".join(ADMITTED)}'
    for name in ("width", "layers", "kv_heads", "ffn", "vocabulary"):
        if getattr(large, name) < getattr(small, name):
            return f"its {name} is {getattr(large, name):,}, {getattr(small, name):,} is the least"
    if large.heads % large.kv_heads or large.heads // large.kv_heads < small.heads // small.kv_heads:
        return f"{large.heads} heads over {large.kv_heads} of keys, and {small.heads // small.kv_heads} each are needed"
    if large.head_dim % small.head_dim:
        return f"its heads have {large.head_dim} dimensions, no multiple of {small.head_dim}"
    return None


def copies(small: Shape, large: Shape) -> int:
    """How often the small model's stream stands in the large one: twice where only that keeps norms exact to the bit."""
    return next((n for n in (1, 2) if large.width >= n * small.width and _power_of_four(large.width / small.width / n)), 1)


def exact(small: Shape, large: Shape) -> bool:
    """Whether norms and attention's scale are the small model's to the last bit; else to rounding."""
    ratio = large.width / small.width / copies(small, large)
    return _power_of_four(ratio) and _power_of_four(large.head_dim / small.head_dim)


def _power_of_four(ratio: float) -> bool:
    return math.log(ratio, 4).is_integer() if ratio >= 1 else False
