"""What quantised weights and activations cost in perplexity, and whether outlier channels make 8-bit activations unusable:

    python -m tests.benchmarks.quantised_perplexity [FOLDER ...]

Dev stories, each from <s> in a window of its own of 512 tokens, as in perplexity.py. Every model as it is, and with outlier
channels that leave its function as it is (outliers.py), of several seeds. Layers nf4 or int8, the head int8, unless said.
A markdown table; then whether 8-bit activations stay within 0.5 % of 16-bit ones; one line of JSON comes last.
"""

import argparse
import json
import math
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional
from transformers import PreTrainedTokenizerFast

from offload.folder import HEAD, Folder, ResidentWeights
from offload.form import Plain, Quantised
from specexec.engines.families import admit
from specexec.engines.kernel_engine import KernelEngine
from specexec.engines.torch_engine import TorchEngine
from specexec.engines.tree_engine import TreeEngine
from specexec.kernels import library, rows
from specexec.kv.dense import DenseCache
from specexec.perplexity import nats
from tests.benchmarks import outliers
from tests.benchmarks.perplexity import MODELS, WINDOW, dev_stories

CPU = torch.device("cpu")
ALLOWED = 0.005  # relative rise of perplexity from 16-bit to 8-bit activations
SAME = 1e-5  # relative: fp32 with outliers is fp32 without
FORMS = [(kind, bits, "int8") for kind in ("nf4", "int8") for bits in (8, 16)]
HEADS = [("nf4", 16, head) for head in ("nf4", "fp32")]  # beside the int8 one


@dataclass(frozen=True)
class Text:
    ids: list[int]
    characters: int  # of the scored tokens


@dataclass(frozen=True)
class Cell:
    """kind: fp32, nf4 or int8; bits: of activations, 0 in fp32. outliers: the seed, or None."""

    model: str
    outliers: int | None
    kind: str
    bits: int
    head: str
    perplexity: float
    bits_per_character: float


@dataclass(frozen=True)
class Headed(Quantised):
    """Another head than int8."""

    head: str = "int8"

    def _matrix(self, name: str, tensor: torch.Tensor, kind: str) -> dict[str, torch.Tensor]:
        return super()._matrix(name, tensor, self.head if name == HEAD else kind)


class PlainHead(KernelEngine):
    """The head in fp32."""

    def __init__(self, weight: torch.Tensor, *others: Any) -> None:
        super().__init__(*others)
        self.plain = weight.float()

    def _logits(self, hidden: torch.Tensor) -> torch.Tensor:
        return functional.linear(rows.norm(hidden.contiguous(), self.norm, self.shape.eps), self.plain)


def texts(folder: Path, stories: Sequence[str]) -> list[Text]:
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))
    cut = [tokenizer.encode(story)[: WINDOW + 1] for story in stories]
    return [Text(ids, len(tokenizer.decode(ids[1:], skip_special_tokens=True))) for ids in cut]


def engine(folder: Folder, kind: str, bits: int, head: str) -> TreeEngine:
    config = admit(folder.config)
    layers, tied = config.num_hidden_layers, config.tie_word_embeddings
    if kind == "fp32":
        weights = ResidentWeights(folder, layers, tied, Plain(CPU, torch.float32))
        return TorchEngine(config, weights, DenseCache(layers), config.vocab_size, CPU, torch.float32)
    form = Headed(kind, "tile16", tied, CPU, torch.float32, "int8" if head == "fp32" else head)
    weights = ResidentWeights(folder, layers, tied, form)
    if head == "fp32":
        plain = next(x for name, x in folder.tensors() if name == ("model.embed_tokens.weight" if tied else HEAD))
        return PlainHead(plain, config, weights, config.vocab_size, bits)
    return KernelEngine(config, weights, config.vocab_size, bits)


def judge(target: TreeEngine, stories: Sequence[Text]) -> tuple[float, float]:
    """(perplexity, bits a character)."""
    spent = sum(float(nats(target, story.ids).sum()) for story in stories)
    tokens = sum(len(story.ids) - 1 for story in stories)
    return math.exp(spent / tokens), spent / math.log(2) / sum(story.characters for story in stories)


def measure(path: Path, stories: Sequence[str], seeds: int) -> Iterator[Cell]:
    plain, scored = Folder(path), texts(path, stories)
    with tempfile.TemporaryDirectory() as scratch:
        for seed in (None, *range(seeds)):
            folder = plain if seed is None else outliers.save(plain, Path(scratch, str(seed)), seed)
            for form in [("fp32", 0, "fp32"), *FORMS, *HEADS]:
                yield Cell(path.name, seed, *form, *judge(engine(folder, *form), scored))


def find(cells: Sequence[Cell], like: Cell, kind: str, bits: int, head: str) -> Cell:
    wanted = like.model, like.outliers, kind, bits, head
    return next(c for c in cells if (c.model, c.outliers, c.kind, c.bits, c.head) == wanted)


def rises(cells: Sequence[Cell]) -> dict[str, float]:
    """The relative rise of perplexity from 16-bit to 8-bit activations."""
    return {f"{c.model}, {name(c)}, {c.kind}": c.perplexity / find(cells, c, c.kind, 16, c.head).perplexity - 1
            for c in cells if c.bits == 8}


def name(c: Cell) -> str:
    return "as it is" if c.outliers is None else f"outliers {c.outliers}"


def table(cells: Sequence[Cell]) -> str:
    lines = ["| model | outliers | layers | activations | head | perplexity | bits a character | over fp32 | over 16 bits |",
             "|---|---|---|---:|---|---:|---:|---:|---:|"]
    for c in cells:
        over = c.perplexity / find(cells, c, "fp32", 0, "fp32").perplexity - 1
        rise = f"{c.perplexity / find(cells, c, c.kind, 16, c.head).perplexity - 1:+.2%}" if c.bits == 8 else ""
        lines.append(f"| {c.model} | {name(c)} | {c.kind} | {c.bits or 'fp32'} | {c.head} | {c.perplexity:.4f} "
                     f"| {c.bits_per_character:.4f} | {over:+.2%} | {rise} |")
    return "\n".join(lines)


def verdict(cells: Sequence[Cell]) -> str:
    for c in cells:
        plain = next(x for x in cells if x.model == c.model and x.kind == "fp32")
        if c.kind == "fp32" and abs(c.perplexity / plain.perplexity - 1) > SAME:
            raise AssertionError(f"outliers changed {c.model}'s function: {plain.perplexity} became {c.perplexity}")
    above = {name: rise for name, rise in rises(cells).items() if rise >= ALLOWED}
    said = ", ".join(f"{name} {rise:+.2%}" for name, rise in above.items())
    return f"8-bit over 16-bit activations stays below {ALLOWED:.1%} in all: " + (f"no: {said}" if above else "yes")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="*", type=Path, default=[MODELS[0], MODELS[2]])
    parser.add_argument("--stories", type=int, default=100)
    parser.add_argument("--seeds", type=int, default=3)
    chosen = parser.parse_args()
    if why := library.why_not():
        raise SystemExit(why)
    stories = dev_stories()[: chosen.stories]
    cells = [cell for folder in chosen.folders for cell in measure(folder, stories, chosen.seeds)]
    print(table(cells), f"\n\n{len(stories)} stories, kernels {library.instruction_set()}\n\n{verdict(cells)}")
    print(json.dumps({"stories": len(stories), "rises": rises(cells), "cells": [asdict(c) for c in cells]}))


if __name__ == "__main__":
    main()
