"""What a pass of each tier takes, by the length of the context; and what tiers that see a part of it still know:

    python -m tests.benchmarks.long_context [--only passes knowledge recall] [--rounds 20]

passes: a random model whose keys and values are most of what a pass reads, with caches filled with random rows. Contexts take
turns. knowledge: the bundled model on the long novel and on planted quotations, by what a view may see: its picks beside those
of the model that sees everything. recall: a model made by hand repeats a passage from deep in its prompt, plainly and drafting
for itself over a view, in turns. Tables in markdown; one line of JSON comes last.
"""

import argparse
import gzip
import json
import math
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig

from cli.bench import machine
from cli.build import ModelOptions, open_session
from cli.interrupt import Interrupt
from specexec.answer import Answer, Endings
from specexec.budget import Auto, Fixed
from specexec.decode import decode
from specexec.drafters.grow import Grow, Nothing
from specexec.drafters.model import unread
from specexec.drafters.same import Same
from specexec.engines.kernel_engine import KernelEngine
from specexec.engines.tree_engine import TreeEngine
from specexec.kv.blocks import BlockCache
from specexec.kv.choice import Gather
from specexec.kv.retrieval import BlockGathering
from specexec.noise import Noise
from specexec.roles import Budget, Drafter
from specexec.sampling import Sampling
from specexec.tree import ROOT, DraftTree
from tests import quantised, recall
from tests.benchmarks.budget import interval
from tests.benchmarks.kernel_model import Random
from tests.benchmarks.timing import alternate
from tests.specexec.test_decode import Letters

SHAPE: dict[str, Any] = {
    "hidden_size": 1024, "num_hidden_layers": 6, "intermediate_size": 1024, "num_attention_heads": 8,
    "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 2048, "max_position_embeddings": 131072,
}
CONTEXTS, NODES = (8192, 16384, 32768, 65536), (1, 8)
RETRIEVAL = Gather()
WINDOW = replace(RETRIEVAL, scored=False)
PARTS = ["passes", "knowledge", "recall"]
PASSAGE, BUDGET, WARM = 104, 64, 2  # tokens; nodes of a tree at the most; answers that only teach
NOVEL = Path(__file__).parents[3] / "shared" / "data" / "text" / "long_novel.txt.gz"


@dataclass(frozen=True)
class Cell:
    """Seconds of a pass. read: bytes of keys and values."""

    tier: str
    context: int
    nodes: int
    seconds: float
    read: int
    elsewhere: float


def chain(n: int) -> DraftTree:
    return DraftTree(tuple(range(n)), tuple(range(ROOT, n - 1)), (0.0,) * n, ("test",) * n)


def fill(engine: TreeEngine, cache: BlockCache, tokens: Sequence[int], step: int) -> None:
    """As if it had read these tokens, in chunks of `step`; the rows are random."""
    for start in range(0, len(tokens), step):
        some = tokens[start : start + step]
        before = cache.nbytes
        cache.room(cache.held + len(some))
        if cache.nbytes != before:
            for part in (part for pair in cache.buffers() for part in pair):
                flat = part.view(-1)
                flat[:] = torch.randn(2**20).bfloat16().repeat(math.ceil(len(flat) / 2**20))[: len(flat)]
        cache.admit(some, range(ROOT, len(some) - 1))
        cache.rebase(range(len(some)))
    engine.sync(tokens)


def tiers(engine: KernelEngine, context: int) -> dict[str, tuple[TreeEngine, int]]:
    """{name: (engine, rows of keys and values that its pass reads)}, each at `context`."""
    tokens = [at % 2000 for at in range(context)]
    full = engine.over(base := BlockCache(len(engine.windows), engine.shape.kv_heads, engine.shape.head_dim, context + 64))
    fill(full, base, tokens, context)
    views = {name: full.over(BlockGathering(base, of)) for name, of in (("retrieval", RETRIEVAL), ("window", WINDOW))}
    for one in (full, *views.values()):
        one.sync(tokens)
        one.forward(chain(1), unread)  # somebody asks
    draft = engine.forgetting(131072)
    assert isinstance(draft.cache, BlockCache)
    fill(draft, draft.cache, tokens, 256)
    rows = RETRIEVAL.rows + context % RETRIEVAL.chunk
    return {"full": (full, context), **{name: (view, rows) for name, view in views.items()},
            "window draft": (draft, draft.cache.held)}


def passes(chosen: argparse.Namespace) -> list[Cell]:
    config = LlamaConfig(**SHAPE)
    engine = KernelEngine(config, Random(config), config.vocab_size, 8)
    made = {context: tiers(engine, context) for context in chosen.contexts}
    row = 2 * 2 * len(engine.windows) * engine.shape.kv
    cells = []
    for n in NODES:
        for name in ("retrieval", "window", "window draft", "full"):
            arms = {str(context): partial(found[name][0].forward, chain(n), unread) for context, found in made.items()}
            timed = alternate(arms, chosen.rounds, patience=chosen.patience)
            cells += [Cell(name, context, n, timed.seconds[str(context)], made[context][name][1] * row, timed.elsewhere)
                      for context in made]
    return cells


def passes_table(cells: Sequence[Cell]) -> str:
    contexts = sorted({c.context for c in cells})
    heading = " | ".join(f"{context:,}" for context in contexts)
    heads = f"{SHAPE['num_key_value_heads']} KV heads x {SHAPE['head_dim']}"
    lines = [f"ms a pass of {SHAPE['num_hidden_layers']} layers, {heads}", "",
             f"| tier | nodes | {heading} | longest over shortest | MB read at the longest | others |",
             "|---|---:|" + "---:|" * (len(contexts) + 3)]
    for name, n in dict.fromkeys((c.tier, c.nodes) for c in cells):
        own = sorted((c for c in cells if (c.tier, c.nodes) == (name, n)), key=lambda c: c.context)
        lines.append(f"| {name} | {n} | {' | '.join(f'{1e3 * c.seconds:.2f}' for c in own)} "
                     f"| {own[-1].seconds / own[0].seconds:.2f} | {own[-1].read / 1e6:.0f} | {own[-1].elsewhere:.2f} |")
    return "\n".join(lines)


@dataclass(frozen=True)
class Known:
    """agreement: the share of positions where the view picks what the whole context picks; kl: nats; loss: of the text's
    next token; quoted: the mean log-probability of the second half of a quotation whose first half is repeated at the end."""

    kind: str
    rows: int
    chunk: int
    agreement: float
    kl: float
    loss: float
    quoted: float


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


def quoting(text: Sequence[int], quotation: Sequence[int]) -> list[int]:
    """A text that holds the quotation at a fifth of its length, and ends with the first half of it."""
    at, half = len(text) // 5, len(quotation) // 2
    return [*text[:at], *quotation, *text[at : len(text) - len(quotation) - half], *quotation[:half]]


def views(budgets: Sequence[int], chunks: Sequence[int]) -> list[tuple[str, Gather]]:
    some = [("retrieval", Gather(rows, chunk, max(16, chunk), max(32, chunk))) for rows in budgets for chunk in chunks
            if rows >= 4 * chunk]
    return [*some, *(("window", Gather(rows, 8, 16, 32, scored=False)) for rows in budgets)]


def knowledge(chosen: argparse.Namespace) -> list[Known]:
    session = open_session(ModelOptions(drafts=("none",), quant="int8"), Interrupt())
    engine, ahead = session.target, chosen.ahead
    assert isinstance(engine, KernelEngine)
    found: dict[tuple[str, Gather], list[tuple[float, float, float]]] = {}
    quoted: dict[tuple[str, Gather], list[float]] = {}
    whole = ("full", Gather(chosen.length // 64 * 64, 64, 64, 64))
    samples = texts(chosen, session.codec.encode_first)
    for number, text in enumerate(samples):
        quotation = samples[number - 1][100:140]
        for key in (whole, *views(chosen.budgets, chosen.chunks)):
            found.setdefault(key, []).append(compared(engine, text, ahead, key[1]))
            last = quoting(text[: chosen.length - 30], quotation)
            log_p = after(engine, last, quotation[len(quotation) // 2 - 1 :], key[1])
            quoted.setdefault(key, []).append(log_p)
    mean = lambda column: sum(column) / len(column)  # noqa: E731
    return [Known(kind, of.rows, of.chunk, *(mean(c) for c in zip(*found[kind, of], strict=True)), mean(quoted[kind, of]))
            for kind, of in found]


def compared(engine: KernelEngine, text: Sequence[int], ahead: int, of: Gather) -> tuple[float, float, float]:
    """(agreement, KL, loss) of the text's last `ahead` tokens, read by a view that was chosen before them."""
    base, last = text[: -ahead - 1], text[-ahead - 1 :]
    view = engine.over(BlockGathering(blocks(engine), of))
    read(engine, base[:-1], base[-1:])
    engine.sync(base)
    engine.settle()
    seen = read(view, base, last[:-1])
    whole = read(engine, base, last[:-1])
    kl = (whole.exp() * (whole - seen)).sum(-1).mean()
    loss = -seen.gather(1, torch.tensor(last[1:])[:, None]).mean()
    return float((whole.argmax(-1) == seen.argmax(-1)).float().mean()), float(kl), float(loss)


def after(engine: KernelEngine, text: Sequence[int], rest: Sequence[int], of: Gather) -> float:
    """Mean log-probability of `rest` behind `text`, whose last token is the first of it."""
    view = engine.over(BlockGathering(blocks(engine), of))
    read(engine, text[:-2], text[-2:-1])
    engine.sync(text[:-1])
    engine.settle()
    return float(read(view, text[:-1], rest[:-1]).gather(1, torch.tensor(rest[1:])[:, None]).mean())


def blocks(engine: KernelEngine) -> BlockCache:
    assert isinstance(engine.cache, BlockCache)
    return engine.cache


def knowledge_table(cells: Sequence[Known]) -> str:
    lines = ["| view | rows | chunk | picks of the whole | KL, nats | loss on the text | log p of a quotation |",
             "|---|---:|---:|---:|---:|---:|---:|"]
    lines += [f"| {c.kind} | {c.rows} | {c.chunk} | {c.agreement:.3f} | {c.kl:.3f} | {c.loss:.3f} | {c.quoted:.2f} |"
              for c in cells]
    return "\n".join(lines)


@dataclass(frozen=True)
class Recalled:
    """Seconds of decoding alone. ratio: plain decoding's over these, the median of pairs, and 95 % of their mean."""

    drafts: str
    context: int
    tokens_per_second: float
    tokens_per_pass: float
    ratio: float
    interval: list[float]
    same_text: bool


def recalled(chosen: argparse.Namespace) -> list[Recalled]:
    with tempfile.TemporaryDirectory() as folder:
        engine = quantised.engine(recall.save(Path(folder)), "int8", 16, vocabulary=recall.VOCABULARY)
    cells = []
    for context in chosen.recall:
        prompt, fact = recall.text(context, PASSAGE)
        views = {"plain": None, "retrieval": RETRIEVAL, "window": WINDOW}
        drafters = {name: drafting(engine, of) if of else (Nothing(), Fixed(0)) for name, of in views.items()}
        runs: dict[str, list[tuple[float, int, list[int]]]] = {name: [] for name in drafters}
        for number in range(chosen.pairs + WARM):
            for name in sorted(drafters, reverse=bool(number % 2)):
                runs[name].append(repeated(engine, *drafters[name], prompt, len(fact)))
        cells += [of_runs(name, context, runs[name][WARM:], runs["plain"][WARM:]) for name in runs]
    return cells


def drafting(engine: KernelEngine, of: Gather) -> tuple[Drafter, Budget]:
    return Grow([Same(engine, BlockGathering(blocks(engine), of))], engine.limits.context), Auto(BUDGET)


def repeated(
    engine: KernelEngine, drafter: Drafter, budget: Budget, prompt: Sequence[int], tokens: int
) -> tuple[float, int, list[int]]:
    """(seconds, passes, ids) of an answer but for its first pass, which reads the prompt."""
    answer = Answer(Letters(), prompt, Endings(frozenset(), 2**30, max_tokens=tokens))
    noise = Noise(0, 0, len(prompt), recall.VOCABULARY, silent=True)
    steps = decode(engine, drafter, budget, Sampling(0.0), noise, prompt, answer)
    next(steps)
    began = time.perf_counter()
    passes = len(list(steps))
    return time.perf_counter() - began, passes, answer.ids


def of_runs(name: str, context: int, own: Sequence[tuple[float, int, list[int]]], plain: Sequence[Any]) -> Recalled:
    ratios = [its[0] / run[0] for run, its in zip(own, plain, strict=True)]
    tokens = len(own) * (len(own[0][2]) - 1)
    return Recalled(name, context, tokens / sum(run[0] for run in own), tokens / sum(run[1] for run in own),
                    statistics.median(ratios), interval(ratios), all(run[2] == plain[0][2] for run in own))


def recalled_table(cells: Sequence[Recalled]) -> str:
    lines = ["| draft's view | context | tokens/s | tokens a pass | over plain (95 %) | same text |",
             "|---|---:|---:|---:|---:|---|"]
    for c in cells:
        lines.append(f"| {c.drafts} | {c.context:,} | {c.tokens_per_second:.1f} | {c.tokens_per_pass:.2f} "
                     f"| {c.ratio:.2f} ({c.interval[0]:.2f} to {c.interval[1]:.2f}) | {'yes' if c.same_text else 'NO'} |")
    return "\n".join(lines)


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--recall", type=int, nargs="+", default=[32768, 65536], help="contexts of recall")
    parser.add_argument("--pairs", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--patience", type=int, default=40, help="rounds beside busy processes that are done again")
    parser.add_argument("--contexts", type=int, nargs="+", default=list(CONTEXTS))
    parser.add_argument("--budgets", type=int, nargs="+", default=[64, 128, 256, 512])
    parser.add_argument("--chunks", type=int, nargs="+", default=[8, 16, 32, 64])
    parser.add_argument("--samples", type=int, default=40)
    parser.add_argument("--length", type=int, default=960, help="tokens of a text")
    parser.add_argument("--ahead", type=int, default=32, help="of them, read by the view")
    parser.add_argument("--text", type=Path, default=NOVEL)
    return parser.parse_args()


def main() -> None:
    chosen, made = options(), {}
    torch.manual_seed(0)
    if "passes" in chosen.only:
        cells = passes(chosen)
        print(passes_table(cells) + "\n", flush=True)
        made["passes"] = [asdict(cell) for cell in cells]
    if "knowledge" in chosen.only:
        known = knowledge(chosen)
        print(knowledge_table(known) + "\n", flush=True)
        made["knowledge"] = [asdict(cell) for cell in known]
    if "recall" in chosen.only:
        again = recalled(chosen)
        print(recalled_table(again) + "\n", flush=True)
        made["recall"] = [asdict(cell) for cell in again]
    print(json.dumps({"machine": machine(), **made}))


if __name__ == "__main__":
    main()
