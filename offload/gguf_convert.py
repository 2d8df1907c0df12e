"""A conversion of a GGUF file: its tensors dequantised, their names and their order as they were published."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from offload.blueprint import Blueprint, Bytes
from offload.errors import DamagedFiles, Refused
from offload.folder import EMBEDDING, HEAD, LAYERS
from offload.gguf import AGAIN, FACTORS, PLAIN, Gguf, values
from offload.gguf_tokenizer import tokenizer
from offload.manifest import Identity
from offload.parts import read, steps
from offload.published import NORM, Goal, laid_out

OUTSIDE = {"token_embd.weight": EMBEDDING, "output_norm.weight": NORM, "output.weight": HEAD}
INSIDE = {"attn_norm": "input_layernorm", "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj",
          "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj", "attn_q_norm": "self_attn.q_norm",
          "attn_k_norm": "self_attn.k_norm", "ffn_norm": "post_attention_layernorm", "ffn_gate": "mlp.gate_proj",
          "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj"}
ROTATED = {"attn_q": "num_attention_heads", "attn_k": "num_key_value_heads"}  # whose rows llama.cpp keeps in pairs
BEFORE = "blk."


@dataclass(frozen=True)
class Blocks:
    """Implements Source. head: rows of one, whose halves were woven into pairs; 0 where they lie as they were published."""

    path: Path
    name: str
    shape: tuple[int, ...]
    number: int  # of its kind
    start: int
    nbytes: int
    head: int = 0

    @property
    def dtype(self) -> torch.dtype:
        """What it is kept as where it is not quantised anew."""
        return PLAIN.get(self.number, torch.float16)

    def rows(self, start: int, stop: int) -> torch.Tensor:
        """As they are stored, or fp32 where they are blocks. Raises DamagedFiles or OffloadError, naming file and byte."""
        if not self.head:
            return self._lie(start, stop)
        first = start - start % self.head
        found = self._lie(first, min(stop + -stop % self.head, self.shape[0]))
        pairs = found.view(-1, self.head // 2, 2, *self.shape[1:])
        return pairs.transpose(1, 2).reshape(found.shape)[start - first : stop - first]

    def _lie(self, start: int, stop: int) -> torch.Tensor:
        row = self.nbytes // self.shape[0]
        raw = read(self.path, self.start + start * row, (stop - start) * row)
        return values(raw, self.number).view(-1, *self.shape[1:])

    def steps(self, multiple: int) -> Iterator[tuple[int, int]]:
        return steps(self.shape, 4, multiple)


def converted(model: Gguf, goal: Goal) -> Blueprint:
    """From the header alone. Raises DamagedFiles or Refused for what is missing, unknown or of no use."""
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
