"""`convert --to keep`: blocks of a GGUF file that our kernels know, with the codes and scales they have there."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

import torch

from offload.errors import Refused
from offload.gguf import Gguf
from offload.gguf_blocks import Blocks
from offload.parts import Part, Quantise, Source
from offload.published import Goal
from specexec.formats import pack
from specexec.kinds import BITS, SHARED

KEEP = "keep"
NUMBERS: Mapping[int, str] = {2: "q4_0", 8: "q8_0"}  # as gguf.kinds has them
SCALE = 2  # bytes, before a block's codes


@dataclass(frozen=True)
class Keep(Quantise):
    """The matrix `name`.weight[N, K] as it lies in a GGUF file. source: of blocks of `kind`."""

    source: Blocks

    def make(self, start: int, stop: int) -> tuple[torch.Tensor, ...]:
        codes, scales = split(self.source.raw(start, stop), self.kind)
        if not bool(scales.isfinite().all()):
            raise Refused(f"{self.source.name} holds a scale that is NaN or infinite.", hint="another copy of the file")
        made = pack(self.kind, self.layout, codes, scales)
        return made.codes, made.scales


def split(raw: torch.Tensor, kind: str) -> tuple[torch.Tensor, torch.Tensor]:
    """(codes[n, K], scales fp16[n, K/32]) of rows of blocks, uint8[n, bytes]."""
    size = SHARED[kind] * BITS[kind] // 8
    blocks = raw.view(len(raw), -1, SCALE + size)
    scales, codes = blocks[..., :SCALE].contiguous().view(torch.float16).squeeze(-1), blocks[..., SCALE:]
    if BITS[kind] == 4:  # a block's first half in the lower nibbles, its second half in the upper ones
        return torch.cat((codes & 15, codes >> 4), -1).flatten(1), scales
    return codes.contiguous().view(torch.int8).flatten(1), scales


@dataclass(frozen=True)
class Keeping(Goal):
    """kind: what most of the layers' weights are kept as; matrices of other kinds become int8."""

    def matrix(self, name: str, source: Source, kind: str) -> Part:
        assert self.layout is not None
        if isinstance(source, Blocks) and (kept := NUMBERS.get(source.number)):
            return Keep(name, source, kept, self.layout)
        return super().matrix(name, source, "int8")


def keeping(model: Gguf, goal: Goal) -> Keeping:
    """goal: of kind KEEP. Raises Refused where none of the layers' matrices could be kept."""
    return Keeping(main_kind(model), goal.layout, goal.layers, goal.tied)


def main_kind(model: Gguf) -> str:
    """Of KEPT, what most of the layers' weights are. Raises Refused where none are."""
    found = Counter[str]()
    for info in model.header.tensors:
        if info.name.startswith("blk.") and info.ggml_type in NUMBERS:
            found[NUMBERS[info.ggml_type]] += prod(info.shape)
    if not found:
        kinds = ", ".join(model.bytes_by_kind)
        raise Refused(f"{model.path} holds {kinds}; Q4_0 and Q8_0 can be kept.", hint=f"specexec convert {model.path} --to nf4")
    return found.most_common(1)[0][0]
