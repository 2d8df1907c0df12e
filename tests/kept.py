"""Matrices of every kind: those that GGUF files keep are made here as llama.cpp makes them."""

import torch
import torch.nn.functional as F

from specexec import formats
from specexec.formats import Packed, pack
from specexec.kinds import KEPT, SHARED


def quantise(weight: torch.Tensor, kind: str, layout: str) -> Packed:
    """weight[N, K], of a scale that fp16 holds."""
    if kind not in KEPT:
        return formats.quantise(weight, kind, layout)
    each = SHARED[kind]
    groups = F.pad(weight.float(), (0, -weight.shape[1] % each)).view(len(weight), -1, each)
    largest = groups.gather(-1, groups.abs().argmax(-1, keepdim=True))
    scales = (largest / -8 if kind == "q4_0" else largest.abs() / 127).half()
    steps = torch.where(scales == 0, 0.0, 1 / scales.float())
    codes = (groups * steps + 8).round().clamp(0, 15) if kind == "q4_0" else (groups * steps).round().clamp(-127, 127)
    return pack(kind, layout, codes.flatten(1)[:, : weight.shape[1]].to(formats.KINDS[kind]), scales.squeeze(-1))
