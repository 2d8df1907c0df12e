"""What keys and values of 8 and of 4 bits cost a model that reads a text: perplexity, beside that of bf16."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from specexec.engines.kernel_engine import KernelEngine
from specexec.kernels.hierarchical import GROUP
from specexec.kv.quantised import BITS
from specexec.perplexity import nats

FORMATS = ("bf16", *BITS)
NORMAL = 1.96  # standard errors of 95 %


@dataclass(frozen=True)
class Cell:
    """kv: the format. over_bf16: by what share the perplexity is larger, and half of its interval of 95 %, as if tokens were
    independent of each other."""

    kv: str
    perplexity: float
    over_bf16: float
    uncertain: float


def windows(ids: Sequence[int], first: Sequence[int], length: int) -> list[list[int]]:
    """All of a text in windows of so many tokens, each with what a text begins with; the last one is what is left."""
    step = length - len(first)
    cut = [[*first, *ids[at : at + step]] for at in range(0, len(ids), step)]
    return [window for window in cut if len(window) > max(1, len(first))]


def judge(engine: KernelEngine, texts: Sequence[Sequence[int]], say: Callable[[str], None] = lambda kv: None) -> list[Cell]:
    """say: told of each format as its turn comes."""
    found: dict[str, torch.Tensor] = {}
    for kv in FORMATS:
        say(kv)
        reading = engine.keeping(kv)
        found[kv] = torch.cat([nats(reading, text) for text in texts])
    return [_cell(kv, found[kv], found["bf16"]) for kv in FORMATS]


def _cell(kv: str, own: torch.Tensor, bf16: torch.Tensor) -> Cell:
    more = own - bf16
    error = float(more.std()) / math.sqrt(len(more)) if len(more) > 1 else math.inf
    return Cell(kv, math.exp(own.mean()), math.expm1(more.mean()), NORMAL * error)


def quantised_share(texts: Sequence[Sequence[int]]) -> float:
    """Of the rows that all tokens see, those in whole groups before the token's own, which alone are quantised."""
    pairs = [(at // GROUP * GROUP, at + 1) for text in texts for at in range(len(text) - 1)]
    return sum(quantised for quantised, _ in pairs) / sum(seen for _, seen in pairs)


def table(of: dict[str, Any]) -> str:
    lines = ["| keys and values | perplexity | over bf16 | KiB a token |", "|---|---:|---:|---:|"]
    for one in of["cells"]:
        rise = f"{one['over_bf16']:+.3%} ± {one['uncertain']:.3%}" if one["kv"] != "bf16" else ""
        lines.append(f"| {one['kv']} | {one['perplexity']:.4f} | {rise} | {one['token_bytes'] / 2**10:.2f} |")
    return "\n".join([*lines, "", *of["remarks"], ""])
