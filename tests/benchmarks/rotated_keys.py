"""Quantised keys, by channel over 128 tokens or by token after a Hadamard rotation: errors, and how often a draft is right:

    python -m tests.benchmarks.rotated_keys [--samples 12] [--length 768] [--outliers 1 4 16]

In plain torch, on the bundled model (fp32 weights): the target reads keys and values of 8 bits, its draft the upper 4; values
are by token in both. A query sees whole groups before its own quantised, as the kernels do, all other rows whole. Each position
of a text is drafted from the target's own rows; accepted is the share of positions, behind the first group, where both pick the
same token at temperature 0. --outliers: factors by which two pairs of channels of every head's keys are larger, and of its
queries smaller, which leaves the function as it is; large models have such channels. Errors are root mean squares over that of
the keys. A markdown table; one line of JSON comes last.
"""

import argparse
import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from cli.codec import Codec
from offload.folder import Folder, ResidentWeights
from offload.form import Plain
from specexec.engines.families import admit
from specexec.engines.torch_engine import TorchEngine
from specexec.kernels.hierarchical import GROUP, numbers
from specexec.kv.cache import Rows
from specexec.kv.dense import DenseCache
from tests.benchmarks.long_context import NOVEL
from tests.benchmarks.perplexity import MODELS
from tests.benchmarks.view_knowledge import texts
from tests.models import chain

CPU = torch.device("cpu")
Rounding = Callable[[torch.Tensor, int], torch.Tensor]
"""rounded(k[kv_heads, rows, dim], bits): all whole groups of them as they are read."""


PAIRS = 2  # of channels that are larger


def by_channel(k: torch.Tensor, bits: int) -> torch.Tensor:
    return numbers(k.unflatten(1, (-1, GROUP)), 2, bits).flatten(1, 2)


def by_token(k: torch.Tensor, bits: int) -> torch.Tensor:
    return numbers(k, 2, bits)


def hadamard(size: int) -> torch.Tensor:
    """fp32[size, size] of 1 and -1, whose rows are orthogonal; size is a power of two."""
    return torch.ones(1, 1) if size == 1 else torch.kron(torch.tensor([[1.0, 1.0], [1.0, -1.0]]), hadamard(size // 2))


def rotated(k: torch.Tensor, bits: int) -> torch.Tensor:
    """The rotation is its own inverse; attention turns the query instead."""
    turn = hadamard(k.shape[2]) / math.sqrt(k.shape[2])
    return numbers(k @ turn, 2, bits) @ turn


KEYS: dict[str, Rounding] = {"by channel": by_channel, "by token": by_token, "by token, rotated": rotated}


class Reading(DenseCache):
    """One chain from the start. kept: keys and values of a target's pass, which this one sees instead of its own but for each
    position's own row. larger: the factor of outlier channels."""

    def __init__(self, layers: int, rounding: Rounding, bits: int, larger: float, kept: "Reading | None" = None) -> None:
        super().__init__(layers)
        self.rounding, self.bits, self.larger, self.kept = rounding, bits, larger, kept
        self.seen: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def attend(self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, rows: Rows) -> torch.Tensor:
        gains = torch.ones(2, k.shape[2] // 2)  # rope turns channel i with channel i + half
        gains[:, -PAIRS:] = self.larger
        q, k = q / gains.flatten(), k * gains.flatten()
        self.seen[layer] = k, v
        old_k, old_v = self.kept.seen[layer] if self.kept else (k, v)
        n, whole, each = k.shape[1], k.shape[1] // GROUP * GROUP, q.shape[0] // k.shape[0]
        coded_k = torch.cat((self.rounding(old_k[:, :whole], self.bits), old_k[:, whole:]), 1)
        coded_v = torch.cat((numbers(old_v[:, :whole], 2, self.bits), old_v[:, whole:]), 1)
        at = torch.arange(n)
        coded = (at[None] // GROUP < at[:, None] // GROUP)[None]
        wide = [part.repeat_interleave(each, 0) for part in (coded_k, old_k, k, coded_v, old_v, v)]
        scores = torch.where(coded, q @ wide[0].mT, q @ wide[1].mT)
        scores = torch.where(at[None] == at[:, None], (q * wide[2]).sum(-1, keepdim=True), scores)
        weights = scores.masked_fill(at[None] > at[:, None], -torch.inf).softmax(-1)
        own = weights.diagonal(dim1=1, dim2=2)[..., None]
        others = weights.masked_fill(at[None] == at[:, None], 0)
        return (others * coded) @ wide[3] + (others * ~coded) @ wide[4] + own * wide[5]


@dataclass(frozen=True)
class Cell:
    """error4, error8: of keys. nats: of the target's text a token, over that of whole keys and values."""

    outliers: float
    keys: str
    error4: float
    error8: float
    positions: int
    accepted: float
    divergence: float
    nats: float


def logits(model: TorchEngine, cache: DenseCache, ids: Sequence[int]) -> torch.Tensor:
    rows: list[torch.Tensor] = []
    reading = model.over(cache)
    reading.sync([])
    reading.forward(chain(*ids), lambda first, some: rows.append(some.double()))
    return torch.cat(rows).log_softmax(-1)


def measure(model: TorchEngine, layers: int, read: Sequence[Sequence[int]], larger: float) -> Iterator[Cell]:
    whole = [logits(model, Reading(layers, lambda k, bits: k, 8, 1), ids) for ids in read]
    for name, rounding in KEYS.items():
        same, divergence, more, errors = [], [], [], []
        for ids, plain in zip(read, whole, strict=True):
            held = Reading(layers, rounding, 8, larger)
            target = logits(model, held, ids)
            draft = logits(model, Reading(layers, rounding, 4, larger, held), ids)
            behind = slice(GROUP, None)
            same.append((target.argmax(-1) == draft.argmax(-1))[behind])
            divergence.append((target.exp() * (target - draft)).sum(-1)[behind])
            picked = torch.tensor([*ids[1:], 0])[:, None]
            more.append((plain - target).gather(1, picked)[GROUP:-1, 0])
            errors += [[off(rounding, k, bits) for bits in (4, 8)] for k, _ in held.seen.values()]
        four, eight = torch.tensor(errors).mean(0).tolist()
        yield Cell(larger, name, four, eight, sum(map(len, same)), float(torch.cat(same).double().mean()),
                   float(torch.cat(divergence).mean()), float(torch.cat(more).mean()))


def off(rounding: Rounding, k: torch.Tensor, bits: int) -> float:
    k = k[:, : k.shape[1] // GROUP * GROUP]
    return float((rounding(k, bits) - k).square().mean().sqrt() / k.square().mean().sqrt())


def table(cells: Sequence[Cell]) -> str:
    lines = ["| outliers | keys | rms error, 4 bits | 8 bits | positions | accepted | KL of the draft | nats a token more |",
             "|---:|---|---:|---:|---:|---:|---:|---:|"]
    lines += [f"| {c.outliers:g} | {c.keys} | {c.error4:.4f} | {c.error8:.5f} | {c.positions:,} | {c.accepted:.4f} "
              f"| {c.divergence:.2e} | {c.nats:+.1e} |" for c in cells]
    return "\n".join(lines)


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=12)
    parser.add_argument("--length", type=int, default=768)
    parser.add_argument("--text", type=Path, default=NOVEL)
    parser.add_argument("--outliers", type=float, nargs="+", default=[1, 4, 16])
    chosen = parser.parse_args()
    folder, cells = Folder(MODELS[0]), list[Cell]()
    read = texts(chosen, Codec(MODELS[0]).encode_first)
    config = admit(folder.config)
    layers = config.num_hidden_layers
    weights = ResidentWeights(folder, layers, config.tie_word_embeddings, Plain(CPU, torch.float32))
    model = TorchEngine(config, weights, DenseCache(layers), config.vocab_size, CPU, torch.float32)
    for larger in chosen.outliers:
        cells += measure(model, layers, read, larger)
    print(table(cells))
    print(json.dumps([asdict(cell) for cell in cells]))


if __name__ == "__main__":
    main()
