"""What a view of a context still knows of it, beside the model that sees everything: a part of benchmark long_context.

novel: the bundled model on pieces of the long novel. recalled: the model of tests/recall.py, asked for a passage deep in its
prompt. Every view of as many rows is compared with the window on the same texts, so that their difference has a standard error.
"""

import argparse
import gzip
import math
import statistics
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from cli.build import ModelOptions, open_session
from cli.interrupt import Interrupt
from specexec.engines.kernel_engine import KernelEngine
from specexec.engines.tree_engine import TreeEngine
from specexec.kv.blocks import BlockCache
from specexec.kv.choice import Gather
from specexec.kv.retrieval import BlockGathering
from specexec.tree import ROOT, DraftTree
from tests import quantised, recall

WINDOW = "window"
PASSAGE, AHEAD = 104, 64  # tokens of a passage to be recalled, and of those that are read by the view


@dataclass(frozen=True)
class Seen:
    """Of one text. agreed: the share of positions where the view picks what the whole context picks; kl: nats; loss: of the
    text's next token."""

    agreed: float
    kl: float
    loss: float


@dataclass(frozen=True)
class Mean:
    """error: its standard error."""

    value: float
    error: float

    @classmethod
    def of(cls, found: Sequence[float]) -> "Mean":
        return cls(statistics.fmean(found), statistics.stdev(found) / math.sqrt(len(found)))

    def __str__(self) -> str:
        return f"{self.value:.3f} ± {self.error:.3f}"


@dataclass(frozen=True)
class Known:
    """more: agreement above that of the window of as many rows, on the same texts; less: KL below it."""

    kind: str
    rows: int
    chunk: int
    texts: int
    agreed: Mean
    kl: Mean
    loss: Mean
    more: Mean
    less: Mean


def views(budgets: Sequence[int], chunks: Sequence[int]) -> list[tuple[str, Gather]]:
    some = [("retrieval", Gather(rows, chunk, max(16, chunk), max(32, chunk))) for rows in budgets for chunk in chunks
            if rows >= 4 * chunk]
    return [*((WINDOW, Gather(rows, 8, 16, 32, scored=False)) for rows in budgets), *some]


def novel(chosen: argparse.Namespace) -> list[Known]:
    session = open_session(ModelOptions(drafts=("none",), quant="int8"), Interrupt())
    of = views(chosen.budgets, chosen.chunks)
    return known(session.target, texts(chosen, session.codec.encode_first), chosen.ahead, of)


def recalled(chosen: argparse.Namespace) -> list[Known]:
    """Prompts of about the shortest context that recall is measured at."""
    with tempfile.TemporaryDirectory() as folder:
        engine = quantised.engine(recall.save(Path(folder)), "int8", 16, vocabulary=recall.VOCABULARY)
    prompts = [recall.text(chosen.recall_length + at, PASSAGE) for at in range(chosen.recall_samples)]
    of = views(chosen.recall_budgets, chosen.chunks)
    return known(engine, [[*prompt, *fact[: AHEAD + 1]] for prompt, fact in prompts], AHEAD, of)


def known(engine: TreeEngine, samples: Sequence[list[int]], ahead: int, of: Sequence[tuple[str, Gather]]) -> list[Known]:
    assert isinstance(engine, KernelEngine)
    found: dict[tuple[str, Gather], list[Seen]] = {key: [] for key in of}
    for text in samples:
        for key, seen in compared(engine, text, ahead, of):
            found[key].append(seen)
    window = {key[1].rows: seen for key, seen in found.items() if key[0] == WINDOW}
    return [_known(*key, seen, window[key[1].rows]) for key, seen in found.items()]


def _known(kind: str, of: Gather, own: Sequence[Seen], window: Sequence[Seen]) -> Known:
    pairs = list(zip(own, window, strict=True))
    return Known(kind, of.rows, of.chunk, len(own), Mean.of([one.agreed for one in own]), Mean.of([one.kl for one in own]),
                 Mean.of([one.loss for one in own]), Mean.of([one.agreed - its.agreed for one, its in pairs]),
                 Mean.of([its.kl - one.kl for one, its in pairs]))


def compared(
    engine: KernelEngine, text: Sequence[int], ahead: int, of: Sequence[tuple[str, Gather]]
) -> Iterator[tuple[tuple[str, Gather], Seen]]:
    """Each view on the text's last `ahead` tokens, chosen before them."""
    base, last = text[: -ahead - 1], text[-ahead - 1 :]
    for key in of:
        view = engine.over(BlockGathering(blocks(engine), key[1]))
        read(engine, base[:-1], base[-1:])
        engine.sync(base)
        engine.settle()
        seen = read(view, base, last[:-1])
        whole = read(engine, base, last[:-1])
        yield key, _seen(seen, whole, last[1:])


def _seen(seen: torch.Tensor, whole: torch.Tensor, wanted: Sequence[int]) -> Seen:
    kl = (whole.exp() * (whole - seen)).sum(-1).mean()
    loss = -seen.gather(1, torch.tensor(wanted)[:, None]).mean()
    return Seen(float((whole.argmax(-1) == seen.argmax(-1)).float().mean()), float(kl), float(loss))


def read(engine: TreeEngine, tokens: Sequence[int], ahead: Sequence[int]) -> torch.Tensor:
    """fp32[len(ahead), V]: log-probabilities after each of `ahead`, read as a chain below `tokens`."""
    rows: list[torch.Tensor] = []
    engine.sync(tokens)
    tree = DraftTree(tuple(ahead), tuple(range(ROOT, len(ahead) - 1)), (0.0,) * len(ahead), ("test",) * len(ahead))
    engine.forward(tree, lambda first, logits: rows.append(logits.log_softmax(-1)))
    return torch.cat(rows)


def texts(chosen: argparse.Namespace, encode: Callable[[str], list[int]]) -> list[list[int]]:
    whole = gzip.decompress(chosen.text.read_bytes()).decode()
    step = len(whole) // (chosen.samples + 1)
    return [encode(whole[at : at + 8000])[: chosen.length] for at in range(step, len(whole) - 8000, step)][: chosen.samples]


def blocks(engine: KernelEngine) -> BlockCache:
    assert isinstance(engine.cache, BlockCache)
    return engine.cache


def table(cells: Sequence[Known]) -> str:
    lines = [f"{cells[0].texts} texts, each figure with its standard error", "",
             "| view | rows | chunk | picks of the whole | above the window | KL, nats | below the window | loss on the text |",
             "|---|---:|---:|---:|---:|---:|---:|---:|"]
    for c in cells:
        chunk, more, less = ("", "", "") if c.kind == WINDOW else (c.chunk, c.more, c.less)
        lines.append(f"| {c.kind} | {c.rows} | {chunk} | {c.agreed} | {more} | {c.kl} | {less} | {c.loss} |")
    return "\n".join(lines)
