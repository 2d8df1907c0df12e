"""Which models run: those whose layers ours compute wholly, as the parity tests show."""

from collections.abc import Mapping
from typing import Any

from specexec.engines.architecture import Architecture
from specexec.engines.rope import frequencies
from specexec.errors import Damaged, Unsupported

DEFAULTS: Mapping[str, Mapping[str, Any]] = {  # transformers' own, where config.json does not say
    "llama": {"max_position_embeddings": 2048},
    "mistral": {"max_position_embeddings": 131072, "num_key_value_heads": 8, "sliding_window": 4096},
    "qwen2": {"max_position_embeddings": 32768, "num_key_value_heads": 32, "sliding_window": 4096, "max_window_layers": 28},
    "qwen3": {"max_position_embeddings": 32768, "num_key_value_heads": 32, "sliding_window": 4096, "max_window_layers": 28,
              "head_dim": 128},
}
ADMITTED = tuple(DEFAULTS)
SLIDING, FULL = "sliding_attention", "full_attention"
ALIKE = {"hidden_act": "silu", "rms_norm_eps": 1e-6, "tie_word_embeddings": False}  # of all of them
COUNTS = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
          "num_key_value_heads", "head_dim", "max_position_embeddings")
LAYERS = 10_000  # more are a mistake, which would fill the memory before it shows
Q_K_V, MIXED = tuple(f"self_attn.{name}_proj" for name in "qkv"), "self_attn.o_proj"
MLP = tuple(f"mlp.{name}_proj" for name in ("gate", "up", "down"))
WEIGHTS = (*Q_K_V, MIXED, *MLP, "input_layernorm", "post_attention_layernorm")
HEAD_NORMS = ("self_attn.q_norm", "self_attn.k_norm")


def admit(raw: Mapping[str, Any]) -> Architecture:
    """What config.json's content describes. Raises Unsupported, naming what is in the way, or Damaged."""
    kind = str(raw.get("model_type"))
    if raw.get("auto_map"):
        raise Unsupported("this model needs code of its own to be run (auto_map in config.json), which is never executed.",
                          hint=f"a model of a family built in: {', '.join(ADMITTED)}")
    if kind not in ADMITTED:
        raise Unsupported(f'models of type "{kind}" are not supported.', hint=f"a model of type {', '.join(ADMITTED)}")
    try:
        return _described(kind, raw)
    except (TypeError, ValueError, KeyError, AttributeError, ArithmeticError, RuntimeError) as error:
        raise Damaged(f"config.json does not describe a {kind} model: {error}", hint="fetch the model again") from error


def _described(kind: str, raw: Mapping[str, Any]) -> Architecture:
    said = {**ALIKE, **DEFAULTS[kind], **raw}
    if said["hidden_act"] != "silu":
        raise Unsupported(f'the activation "{said["hidden_act"]}" is not supported.', hint="a model with silu")
    if not isinstance(said["tie_word_embeddings"], bool):
        raise ValueError(f"tie_word_embeddings is {said['tie_word_embeddings']!r}")
    counts = _counts(said)
    turning, scaling = frequencies(said, counts["head_dim"], counts["max_position_embeddings"])
    return Architecture(kind, **counts, rms_norm_eps=float(said["rms_norm_eps"]), windows=_windows(kind, said),
                        tie_word_embeddings=said["tie_word_embeddings"], frequencies=turning, rope_scaling=scaling,
                        tensors=_tensors(kind, said),
                        spare=frozenset({f"{MIXED}.bias"} if _biased(kind, said) else ()))  # left out where it is zero


def _biased(kind: str, said: Mapping[str, Any]) -> bool:
    return kind in ("llama", "qwen3") and bool(said.get("attention_bias"))


def _tensors(kind: str, said: Mapping[str, Any]) -> frozenset[str]:
    weights = (*WEIGHTS, *(HEAD_NORMS if kind == "qwen3" else ()))
    biased = [*(Q_K_V if kind == "qwen2" or _biased(kind, said) else ()),
              *(MLP if kind == "llama" and said.get("mlp_bias") else ())]
    return frozenset([f"{name}.weight" for name in weights] + [f"{name}.bias" for name in biased])


def _counts(said: Mapping[str, Any]) -> dict[str, int]:
    heads, width = _count("num_attention_heads", said), _count("hidden_size", said)
    if said.get("head_dim") is None and width % heads:
        raise ValueError(f"hidden_size {width} is no multiple of {heads} heads")
    derived = {"num_key_value_heads": heads, "head_dim": width // heads}
    found = {name: derived[name] if name in derived and said.get(name) is None else _count(name, said) for name in COUNTS}
    if found["head_dim"] % 2 or heads % found["num_key_value_heads"]:
        raise ValueError(f"{heads} heads of {found['head_dim']} share {found['num_key_value_heads']} of keys and values")
    return found


def _count(name: str, said: Mapping[str, Any]) -> int:
    found = said.get(name)
    if isinstance(found, bool) or not isinstance(found, int) or found < 1:
        raise ValueError(f"{name} is {found!r}")
    if name == "num_hidden_layers" and found > LAYERS:
        raise ValueError(f"{name} is {found:,}")
    return found


def _windows(kind: str, said: Mapping[str, Any]) -> tuple[int | None, ...]:
    layers = range(said["num_hidden_layers"])
    chosen = kind == "mistral" or (kind != "llama" and said.get("use_sliding_window"))
    if not chosen or said["sliding_window"] is None:
        return (None,) * len(layers)
    window, first = _count("sliding_window", said), said.get("max_window_layers", 0)
    kinds = said.get("layer_types") if kind != "mistral" else None
    kinds = kinds or [SLIDING if layer >= first else FULL for layer in layers]
    if len(kinds) != len(layers) or set(kinds) - {SLIDING, FULL}:
        raise ValueError(f"layer_types are {kinds!r}")
    return tuple(window if of == SLIDING else None for of in kinds)

