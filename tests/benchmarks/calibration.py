"""Whether a pass's predicted tokens come true, and whether a node's chance is the share in which it is accepted:

    python -m tests.benchmarks.calibration

For each temperature two markdown tables of ten buckets (passes by prediction, nodes by chance); one line of JSON comes last.
"""

import argparse
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from specexec.drafters.grow import Grow
from specexec.drafters.growing import Expander
from specexec.drafters.lookup import Chains, Recycled
from specexec.drafters.model import ModelExpander
from specexec.noise import Noise
from specexec.roles import Worth
from specexec.sampling import Penalties, Sampling
from specexec.tree import DraftTree
from specexec.verify import Picks, Verdict, verify
from tests.benchmarks.buckets import Bucket, buckets, table
from tests.benchmarks.pair import Pair, add_options, load

SURE = 1e-6


@dataclass
class Record:
    """What was predicted and what came true. node_pass: the pass each node belongs to."""

    predicted: list[float] = field(default_factory=list)
    realised: list[float] = field(default_factory=list)
    chance: list[float] = field(default_factory=list)
    reached: list[float] = field(default_factory=list)
    node_pass: list[int] = field(default_factory=list)

    def add(self, tree: DraftTree, verdict: Verdict) -> None:
        number, path = len(self.predicted), set(verdict.path)
        self.predicted.append(1 + sum(tree.chance[1:]))
        self.realised.append(len(verdict.tokens))
        self.chance += tree.chance[1:]
        self.reached += [float(node in path) for node in range(1, len(tree))]
        self.node_pass += [number] * (len(tree) - 1)

    def passes(self) -> list[Bucket]:
        return buckets(self.predicted, self.realised, range(len(self.predicted)))

    def nodes(self) -> list[Bucket]:
        return buckets(self.chance, self.reached, self.node_pass)

    def log_loss(self) -> float:
        """Nats a node."""
        sure = [min(max(c, SURE), 1 - SURE) for c in self.chance]
        return -sum(math.log(c if hit else 1 - c) for c, hit in zip(sure, self.reached, strict=True)) / max(1, len(sure))

    def summary(self) -> dict[str, Any]:
        """JSON: overall means, both tables, and the mean squared z of each, 1 where all is right."""
        rows = {"passes": self.passes(), "nodes": self.nodes()}
        overall = buckets(self.predicted, self.realised, range(len(self.predicted)), 1)[0]
        squares = {f"{name}_z2": sum(b.z**2 for b in found) / len(found) for name, found in rows.items()}
        return {"overall": asdict(overall), "log_loss": self.log_loss(), **squares,
                **{name: [asdict(b) for b in found] for name, found in rows.items()}}


def expanders(names: Sequence[str], pair: Pair) -> list[Expander]:
    """draft: the pair's draft. lookup: chains and recycled successors."""
    made: dict[str, list[Expander]] = {"draft": [ModelExpander(pair.draft, pair.vocabulary)], "lookup": [Chains(), Recycled()]}
    return [expander for name in names for expander in made[name]]


class Writer:
    """Writes answers with one drafter, which learns all the while, and records the passes after the first `warmup`."""

    def __init__(self, pair: Pair, temperature: float, chosen: argparse.Namespace) -> None:
        self.pair, self.chosen, self.record, self.passes = pair, chosen, Record(), 0
        self.sampling = Sampling(temperature=temperature)
        self.drafter = Grow(expanders(chosen.expanders, pair), pair.target.limits.context)

    @property
    def done(self) -> bool:
        return bool(len(self.record.predicted) >= self.chosen.passes)

    def write(self, prompt: Sequence[int], number: int) -> None:
        """One answer, or its beginning where enough passes are recorded."""
        size, silent = self.pair.target.limits.vocabulary, self.sampling.temperature == 0
        noise = Noise(self.chosen.seed, number, len(prompt), size, silent)
        context = list(prompt)
        longest, ended = len(prompt) + self.chosen.tokens, False
        while len(context) < longest and not ended and not self.done:
            tokens = self._advance(context, noise)
            ended = not self.pair.eos.isdisjoint(tokens)
            context += tokens

    def _advance(self, context: list[int], noise: Noise) -> Sequence[int]:
        self.pair.target.sync(context[:-1])
        tree = self.drafter.draft(context, Worth(self.chosen.budget), self.sampling, noise)
        penalties = Penalties(self.sampling, context[: noise.origin], context[noise.origin :])
        picks = Picks(tree, len(context) - 1, self.sampling, noise, penalties)
        self.pair.target.forward(tree, picks)
        verdict = verify(tree, picks)
        self.drafter.learn(tree, picks, verdict)
        self.passes += 1
        if self.passes > self.chosen.warmup:
            self.record.add(tree, verdict)
        return verdict.tokens


def measure(pair: Pair, prompts: Sequence[Sequence[int]], temperature: float, chosen: argparse.Namespace) -> Record:
    """Goes round the openings, each time with other noise, until enough passes are recorded.

    At temperature 0 a second round would repeat the first: it ends there.
    """
    writer = Writer(pair, temperature, chosen)
    rounds = len(prompts) if temperature == 0 else chosen.passes * len(prompts)
    for number in range(rounds):
        writer.write(prompts[number % len(prompts)], number)
        if writer.done:
            break
    return writer.record


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser, stories=40, tokens=128)
    parser.add_argument("--passes", type=int, default=400, help="passes recorded a temperature")
    parser.add_argument("--warmup", type=int, default=20, help="passes before those, from which the drafter only learns")
    parser.add_argument("--budget", type=int, default=64, help="nodes of a tree, its root not counted")
    parser.add_argument("--temperatures", type=float, nargs="+", default=(1.0, 0.0))
    parser.add_argument("--expanders", nargs="+", choices=("draft", "lookup"), default=("draft",))
    return parser.parse_args()


def main() -> None:
    chosen = options()
    pair, prompts = load(chosen)
    found: dict[str, Any] = {}
    for temperature in chosen.temperatures:
        record = measure(pair, prompts, temperature, chosen)
        found[f"{temperature:g}"] = record.summary()
        print(table(f"T = {temperature:g}: passes by predicted tokens", record.passes()))
        print(table(f"T = {temperature:g}: nodes by chance", record.nodes()), flush=True)
    setting = {"seed": chosen.seed, "budget": chosen.budget, "expanders": list(chosen.expanders)}
    print(json.dumps({**setting, "temperatures": found}))


if __name__ == "__main__":
    main()
