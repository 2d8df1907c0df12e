"""What `plan` predicts of each way to keep keys and values, beside what passes then take:

    python -m tests.benchmarks.kept [--context 32768] [--repeats 5] [--rounds 4]

A random model whose keys and values are most of what a pass reads (tier_passes.SHAPE: 6 layers, 8 KV heads x 128, nf4) over
caches filled with random rows. Rates are measured as `plan` measures them, then passes of every kind take turns, and all of it
again several times: a machine with neighbours is another one a minute later. A way's tokens a second are those of a round of
guesses of which as many are right as `plan` says, in measured seconds. The repeat whose prediction is off by the median is
shown; it is to be within 25 %. A markdown table; one line of JSON comes last.
"""

import argparse
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from cli.bench import machine as card
from cli.forecast import ROWS, VIEWED, WHOLE
from offload.crossover import GUESSES, RIGHT
from offload.footprint import Footprint, footprint
from offload.kept import Way, ways
from offload.machine import COUNTS, FEW, QUERIES, Machine, free_memory
from offload.outlook import Outlook
from offload.plan import Demand
from specexec.drafters.model import unread
from specexec.engines import attention_rate, layer_rate, rate
from specexec.engines.families import admit
from specexec.engines.kernel_engine import KernelEngine
from specexec.kv.hierarchical import HierarchicalCache
from specexec.kv.quantised import BITS, UPPER
from tests.benchmarks.kernel_model import Random
from tests.benchmarks.quantspec import bf16, quantised, tokens
from tests.benchmarks.tier_passes import SHAPE, chain
from tests.benchmarks.timing import alternate

WITHIN = 0.25


@dataclass(frozen=True)
class Cell:
    """Seconds of a pass, of a draft's and of one that checks GUESSES; speed: tokens a second."""

    options: str
    predicted: Way
    seconds: float
    draft: float | None
    checked: float
    speed: float

    @property
    def off(self) -> float:
        return self.predicted.speed / self.speed - 1


def machine(bits: int) -> Machine:
    """bits: of activations."""
    seen = {kv: attention_rate.rates("tile16", QUERIES, bits=of) for kv, of in (WHOLE | BITS).items()}
    chosen = {kv: attention_rate.rates("tile16", FEW, bits=of, chosen=ROWS) for kv, of in (WHOLE | VIEWED).items()}
    return Machine(free_memory(), None, 1e9, None, rate.rates("nf4", "tile16", bits, COUNTS), seen, chosen,
                   layer_rate.seconds(bits))


def engines(context: int) -> dict[str, dict[str | None, KernelEngine]]:
    """{format: {view, or None for the model itself: engine}}"""
    config = admit(SHAPE)
    engine = KernelEngine(config, Random(config), config.vocab_size, 8)
    made = {"bf16": bf16(engine, context), **{kv: quantised(engine, context, bits) for kv, bits in BITS.items()}}
    found: dict[str, dict[str | None, KernelEngine]] = {}
    for kv, target in made.items():
        upper = isinstance(target.cache, HierarchicalCache) and target.cache.bits == BITS["int8"]
        target.cache.queries = {}  # type: ignore[attr-defined]
        target.forward(chain(1), unread)  # somebody asks
        found[kv] = {None: target, **{view: target.over(target.cache.view(view)) for view in ["retrieval", *[UPPER] * upper]}}
        for one in found[kv].values():
            one.sync(tokens(context))
            one.forward(chain(1), unread)
    return found


Engines = Mapping[str, Mapping[str | None, KernelEngine]]
"""{format: {view, or None for the model itself: engine}}"""

Took = Mapping[tuple[str, str | None, int], float]
"""{(format, view, nodes): seconds}"""


def measured(found: Engines, rounds: int) -> tuple[Took, float]:
    """And the cores that others used."""
    arms = {(kv, view, nodes): partial(engine.forward, chain(nodes), unread) for kv, views in found.items()
            for view, engine in views.items() for nodes in ((1, GUESSES + 1) if view is None else (1,))}
    timed = alternate({str(name): arm for name, arm in arms.items()}, rounds, patience=rounds)
    return {name: timed.seconds[str(name)] for name in arms}, timed.elsewhere


def cell(way: Way, took: Took) -> Cell:
    plain, checked = took[way.kv, None, 1], took[way.kv, None, GUESSES + 1]
    draft = took[way.kv, way.view, 1] if way.view else None
    speed = 1 / plain if draft is None else (RIGHT + 1) / (GUESSES * draft + checked)
    return Cell(way.options, way, plain, draft, checked, speed)


def table(found: list[list[Cell]]) -> str:
    """found: of each way, a cell a repeat, in order of how far off they are."""
    lines = ["| | ms a pass, predicted | measured | ms a draft pass, predicted | measured "
             "| tokens/s, predicted | measured | off | from | to |",
             "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|"]
    for cells in found:
        c = middle(cells)
        drafts = f"{1e3 * c.predicted.draft:.1f} | {1e3 * c.draft:.1f}" if c.predicted.draft and c.draft else " | "
        lines.append(f"| {c.options} | {1e3 * c.predicted.seconds:.1f} | {1e3 * c.seconds:.1f} | {drafts} "
                     f"| {c.predicted.speed:.2f} | {c.speed:.2f} | {c.off:+.0%} | {cells[0].off:+.0%} | {cells[-1].off:+.0%} |")
    return "\n".join(lines)


def middle(cells: list[Cell]) -> Cell:
    return cells[len(cells) // 2]


def repeat(of: Footprint, context: int, found: Engines, rounds: int) -> tuple[list[Cell], float]:
    predicted = ways(Outlook(of, Demand(context, 64), machine(8)), ROWS)
    took, others = measured(found, rounds)
    return [cell(way, took) for way in predicted], others


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--context", type=int, default=32768)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=4)
    chosen = parser.parse_args()
    of, made = footprint(SHAPE, "nf4"), engines(chosen.context)
    repeats = [repeat(of, chosen.context, made, chosen.rounds) for _ in range(chosen.repeats)]
    others = max(of_one for _, of_one in repeats)
    by_way: dict[str, list[Cell]] = {}
    for cells, _ in repeats:
        for c in cells:
            by_way.setdefault(c.options, []).append(c)
    found = [sorted(cells, key=lambda c: c.off) for cells in by_way.values()]
    print(table(found))
    outside = [cells[0].options for cells in found if abs(middle(cells).off) > WITHIN]
    print(f"within {WITHIN:.0%}: {'not ' + '; '.join(outside) if outside else 'yes'}; others used {others:.2f} cores meanwhile")
    result: dict[str, Any] = {"machine": card(), "shape": SHAPE, "context": chosen.context, "elsewhere": others,
                              "ways": [[{**asdict(c), "off": c.off} for c in cells] for cells in found]}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
