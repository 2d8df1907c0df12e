"""config.json of a model whose GGUF file alone is here."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from offload.errors import Refused

FAMILIES = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM",
            "mistral": "MistralForCausalLM"}
LLAMA3 = {"rope_type": "llama3", "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
ALIKE = 1e-3  # between factors of frequencies, of which a file keeps those that its model's settings give


class Shaped(Protocol):
    @property
    def shape(self) -> tuple[int, ...]: ...


def config(metadata: Mapping[str, Any], tensors: Mapping[str, Shaped], factors: Sequence[float]) -> dict[str, Any]:
    """factors: by which frequencies are divided, as the file has them. Raises Refused, KeyError where metadata are missing."""
    family = str(metadata["general.architecture"])
    if family not in FAMILIES:
        raise Refused(f'models of the architecture "{family}" are not supported.',
                      hint=f"a GGUF file of a model of type {', '.join(FAMILIES)}")
    if any("_exps." in name for name in tensors):
        raise Refused("mixtures of experts are not supported.", hint="a dense model")
    sizes = _sizes(metadata, tensors, family)
    rope = _rope(metadata, family, factors, sizes["head_dim"])
    return {"architectures": [FAMILIES[family]], "model_type": family, **sizes, "rope_parameters": rope,
            **_tokens(metadata), **_biases(tensors, family), "torch_dtype": "float16"}


def _sizes(metadata: Mapping[str, Any], tensors: Mapping[str, Shaped], family: str) -> dict[str, Any]:
    def key(name: str, default: Any = None) -> Any:
        found = metadata.get(f"{family}.{name}", default)
        if found is None:
            raise KeyError(f"{family}.{name}")
        return found

    vocabulary, width = tensors["token_embd.weight"].shape
    heads = int(key("attention.head_count"))
    if isinstance(key("attention.head_count_kv", heads), list):
        raise Refused("layers of different numbers of heads are not supported.", hint="another model")
    return {
        "vocab_size": vocabulary, "hidden_size": width, "intermediate_size": int(key("feed_forward_length")),
        "num_hidden_layers": int(key("block_count")), "num_attention_heads": heads,
        "num_key_value_heads": int(key("attention.head_count_kv", heads)),
        "head_dim": int(key("attention.key_length", key("rope.dimension_count", width // heads))),
        "max_position_embeddings": int(key("context_length")),
        "rms_norm_eps": _rounded(key("attention.layer_norm_rms_epsilon")),
        "tie_word_embeddings": "output.weight" not in tensors, "hidden_act": "silu",
    }


def _rope(metadata: Mapping[str, Any], family: str, factors: Sequence[float], dim: int) -> dict[str, Any]:
    """Raises Refused for scalings that cannot be told from the file."""
    theta = _rounded(metadata.get(f"{family}.rope.freq_base", 10000.0))
    base, scaling = {"rope_theta": theta}, f"{family}.rope.scaling."
    kind, factor = metadata.get(f"{scaling}type", "none"), metadata.get(f"{scaling}factor", 0.0)
    if factors:
        return base | _llama3(factors, theta, dim)
    if kind in ("linear", "yarn") and factor:
        learnt = metadata.get(f"{scaling}original_context_length")
        return base | {"rope_type": kind, "factor": _rounded(factor)} | (
            {"original_max_position_embeddings": int(learnt)} if learnt else {})
    if kind not in ("none", "linear", "yarn"):
        raise Refused(f'rope scaling "{kind}" is not supported.', hint="a model of linear, yarn or llama3 positions")
    return base | {"rope_type": "default"}


def _llama3(factors: Sequence[float], theta: float, dim: int) -> dict[str, Any]:
    """The settings that give these factors, which are all that a file keeps of them. Raises Refused where none known do."""
    found = LLAMA3 | {"factor": round(max(factors), 3)}
    wanted = [_llama3_factor(theta ** (-2 * i / dim), found) for i in range(dim // 2)]
    if len(factors) != len(wanted) or any(abs(a / b - 1) > ALIKE for a, b in zip(factors, wanted, strict=True)):
        raise Refused("the file's factors of frequencies are not those of llama3.",
                      hint="the model as published, in safetensors")
    return found


def _llama3_factor(frequency: float, of: Mapping[str, Any]) -> float:
    """By which llama3 divides a frequency."""
    turns = of["original_max_position_embeddings"] * frequency / (2 * math.pi)
    low, high = of["low_freq_factor"], of["high_freq_factor"]
    smooth = min(max((turns - low) / (high - low), 0.0), 1.0)
    return float(1 / ((1 - smooth) / of["factor"] + smooth))


def _tokens(metadata: Mapping[str, Any]) -> dict[str, Any]:
    return {f"{name}_token_id": metadata.get(f"tokenizer.ggml.{theirs}_token_id")
            for name, theirs in (("bos", "bos"), ("eos", "eos"), ("pad", "padding"))}


def _biases(tensors: Mapping[str, Shaped], family: str) -> dict[str, Any]:
    """qwen2 has them in any case."""
    return {} if family == "qwen2" else {"attention_bias": "blk.0.attn_q.bias" in tensors}


def _rounded(number: float) -> float:
    """A file's fp32 as a person would have written it: 1e-05, not 9.999999747378752e-06."""
    return float(f"{number:.7g}") if math.isfinite(number) else number
