"""Gives a model outlier channels that leave its function as it is: what large models have and small ones lack.

A channel of a norm is multiplied and its consumers' columns are divided; so are an up projection's rows and the down
projection's columns. A tied head becomes a tensor of its own.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from offload.folder import EMBEDDING, HEAD, LAYERS, Folder

SHARE = 0.005  # of the channels, one at least
FACTORS = (30.0, 100.0)
PARTS = ("attention", "ffn", "head", "up")  # the norm before each, and up projections
NORMS = {"attention": ("input_layernorm", ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")),
         "ffn": ("post_attention_layernorm", ("mlp.gate_proj", "mlp.up_proj"))}


def inject(
    tensors: Mapping[str, torch.Tensor], layers: int, seed: int, parts: tuple[str, ...] = PARTS,
    factors: tuple[float, float] = FACTORS,
) -> dict[str, torch.Tensor]:
    """The tensors in fp32, by their published names, with a head. The channels are the same in every layer."""
    random = torch.Generator().manual_seed(seed)
    found = {name: tensor.float().clone() for name, tensor in tensors.items()}
    found.setdefault(HEAD, found[EMBEDDING].clone())
    width, ffn = len(found["model.norm.weight"]), len(found[f"{LAYERS}0.mlp.up_proj.weight"])
    hidden, inner = (torch.randperm(size, generator=random)[: max(1, round(SHARE * size))] for size in (width, ffn))

    def scale(part: str, at: torch.Tensor, grown: str, shrunk: tuple[str, ...]) -> None:
        factor = factors[0] + (factors[1] - factors[0]) * torch.rand(len(at), generator=random)
        if part not in parts:
            return
        weight = found[f"{grown}.weight"]
        weight[at] *= factor if weight.dim() == 1 else factor[:, None]
        for name in shrunk:
            found[f"{name}.weight"][:, at] /= factor

    for layer in (f"{LAYERS}{index}." for index in range(layers)):
        for part, (norm, consumers) in NORMS.items():
            scale(part, hidden, layer + norm, tuple(layer + name for name in consumers))
        scale("up", inner, layer + "mlp.up_proj", (layer + "mlp.down_proj",))
    scale("head", hidden, "model.norm", (HEAD.removesuffix(".weight"),))
    return found


def save(folder: Folder, to: Path, seed: int, **how: Any) -> Folder:
    """The model of `folder` with outliers, as a folder of its own. how: of `inject`."""
    made = inject(dict(folder.tensors()), folder.config["num_hidden_layers"], seed, **how)
    to.mkdir(parents=True)
    save_file(made, to / "model.safetensors")
    (to / "config.json").write_text(json.dumps({**folder.config, "tie_word_embeddings": False}), encoding="utf-8")
    return Folder(to)
