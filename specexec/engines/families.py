"""Which models run: those whose attention our caches compute wholly, as the parity tests show."""

import copy
from collections.abc import Mapping
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, PretrainedConfig

from specexec.errors import Damaged, Unsupported

ADMITTED = ("llama", "mistral", "qwen2", "qwen3")
FIXED_ROPE = ("default", "linear", "llama3", "yarn")
ATTENTION_KEYWORDS = {"dropout", "scaling", "sliding_window", "softcap", "position_ids", "use_cache", "run"}


def admit(raw: Mapping[str, Any]) -> PretrainedConfig:
    """The configuration that config.json's content describes. Raises Unsupported, naming what is in the way, or Damaged."""
    kind = str(raw.get("model_type"))
    if raw.get("auto_map"):
        raise Unsupported("this model needs code of its own to be run (auto_map in config.json), which is never executed.",
                          hint=f"a model of a family built in: {', '.join(ADMITTED)}")
    if kind not in ADMITTED:
        raise Unsupported(f'models of type "{kind}" are not supported.', hint=f"a model of type {', '.join(ADMITTED)}")
    try:
        config = AutoConfig.for_model(**copy.deepcopy(dict(raw)))  # which completes nested entries in place
    except (TypeError, ValueError, KeyError, AttributeError, ArithmeticError, StrictDataclassError) as error:
        raise Damaged(f"config.json does not describe a {kind} model: {error}", hint="fetch the model again") from error
    rope = str((config.rope_parameters or {}).get("rope_type", "default"))
    if rope not in FIXED_ROPE:  # dynamic and longrope change earlier positions as a text grows
        raise Unsupported(f'rope scaling "{rope}" is not supported.', hint=f"a model with rope type {', '.join(FIXED_ROPE)}")
    return config


def refuse_unknown(keywords: Mapping[str, Any]) -> None:
    """Raises Unsupported for an attention keyword that would be ignored."""
    unknown = sorted(name for name, value in keywords.items() if name not in ATTENTION_KEYWORDS and value is not None)
    if unknown:
        raise Unsupported(f"this model's attention asks for {', '.join(unknown)}, which is not implemented.",
                          hint=f"a model of type {', '.join(ADMITTED)}")
