"""A conversion of a GGUF file: its tensors dequantised, or kept; their names and their order as they were published."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from offload.blueprint import Blueprint, Bytes
from offload.errors import DamagedFiles, Refused
from offload.folder import EMBEDDING, HEAD, LAYERS
from offload.gguf import AGAIN, FACTORS, Gguf
from offload.gguf_blocks import Blocks
from offload.gguf_keep import KEEP, keeping
from offload.gguf_tokenizer import tokenizer
from offload.manifest import Identity
from offload.published import NORM, Goal, laid_out

OUTSIDE = {"token_embd.weight": EMBEDDING, "output_norm.weight": NORM, "output.weight": HEAD}
INSIDE = {"attn_norm": "input_layernorm", "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj",
          "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj", "attn_q_norm": "self_attn.q_norm",
          "attn_k_norm": "self_attn.k_norm", "ffn_norm": "post_attention_layernorm", "ffn_gate": "mlp.gate_proj",
          "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj"}
ROTATED = {"attn_q": "num_attention_heads", "attn_k": "num_key_value_heads"}  # whose rows llama.cpp keeps in pairs
BEFORE = "blk."


def converted(model: Gguf, goal: Goal) -> Blueprint:
    """From the header alone. goal: its kind may be KEEP. Raises DamagedFiles or Refused for what is missing or of no use."""
    goal = keeping(model, goal) if goal.kind == KEEP else goal
    source, fingerprint = str(model.path.resolve()), _fingerprint(model.path)
    identity = Identity(source, None, fingerprint, goal.kind, goal.layout, goal.layers, goal.tied)

    def check(name: str) -> None:
        if _fingerprint(model.path) != fingerprint:
            raise DamagedFiles(f"{model.path} changed while it was read.", hint="the same command again")

    matrices, sheets = laid_out(str(model.path), _sources(model), goal)
    return Blueprint(identity, matrices, (*_files(model), *sheets), check)


def _files(model: Gguf) -> Iterator[Bytes]:
    """What would lie beside the weights."""
    made, settings = tokenizer(model)
    for name, content in (("config.json", model.config), ("generation_config.json", model.generation),
                          ("tokenizer.json", made), ("tokenizer_config.json", settings)):
        yield Bytes(name, _text(content))


def _text(content: Mapping[str, Any]) -> bytes:
    return json.dumps(content, indent=1, ensure_ascii=False).encode() + b"\n"


def _sources(model: Gguf) -> dict[str, Blocks]:
    """{published name: where it is}"""
    config, found = model.config, dict[str, Blocks]()
    for name, info in model.tensors.items():
        if name == FACTORS:
            continue  # the configuration says the same
        published, inner = _published(model, name)
        woven = config["model_type"] == "llama" and inner in ROTATED
        head = info.shape[0] // config[ROTATED[inner]] if woven else 0
        found[published] = Blocks(model.path, name, tuple(info.shape), info.ggml_type, model.start(info), info.nbytes, head)
    return found


def _published(model: Gguf, name: str) -> tuple[str, str]:
    """(published name, llama.cpp's name within the layer). Raises Refused."""
    if name in OUTSIDE:
        return OUTSIDE[name], ""
    index, _, inner = name.removeprefix(BEFORE).partition(".")
    stem, _, last = inner.rpartition(".")
    if not name.startswith(BEFORE) or not index.isdecimal() or stem not in INSIDE or last not in ("weight", "bias"):
        raise Refused(f"{model.path} holds {name[:100]}, of which specexec knows no use.", hint="the model as it was published")
    return f"{LAYERS}{index}.{INSIDE[stem]}.{last}", stem


def _fingerprint(path: Path) -> str:
    try:
        stat = path.stat()
    except FileNotFoundError as error:
        raise DamagedFiles(f"{path} is gone.", hint=AGAIN) from error
    return hashlib.sha256(json.dumps([path.name, stat.st_size, stat.st_mtime_ns]).encode()).hexdigest()
