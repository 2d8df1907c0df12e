"""Tokens a second, plain and speculative, and what would change them most: pure, like what it is computed from."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

from offload.footprint import Footprint
from offload.machine import Machine
from offload.plan import Demand, Placement, plan
from offload.predict import Prediction, arithmetic, attention, predict

# Of the bundled pair at budgets of 16 to 128 nodes, temperatures 0 and 1: 1.3 to 1.8 draft passes for each token accepted,
# each over a sixth to an eighth of the budget.
DRAFT_PASSES, DRAFT_SHARE = 1.8, 1 / 6
TYPICAL = 64, 8  # nodes and tokens a pass, where one figure is to stand for all


@dataclass(frozen=True)
class Draft:
    """A model that stays in memory. weights: that a token is multiplied with; products: as a Machine's, in its own format.

    kv: bytes of keys and values that a token sees; group: queries that share a head of them. layers: how many.
    """

    weights: int
    products: Mapping[int, float]
    kv: int = 0
    group: int = 1
    layers: int = 0

    def seconds(self, n: int, machine: Machine) -> float:
        """Of a pass of n tokens."""
        seeing = attention(self.kv, self.group, machine.seeing(), n)
        return arithmetic(self.weights, self.products, n) + seeing + self.layers * machine.layer


@dataclass(frozen=True)
class Speculation:
    """Seconds of the target's pass and of all draft passes before it, with `nodes` guesses of which `tokens` - 1 are right."""

    nodes: int
    tokens: int
    target: Prediction
    draft: float

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / (self.target.seconds + self.draft)


@dataclass(frozen=True)
class Outlook:
    """Of a model on a machine. Raises TooLittleMemory when its placement is asked for.

    copy: {tokens: weights a second} of the low-bit copy with which the model drafts; empty where it does not.
    """

    of: Footprint
    demand: Demand
    machine: Machine
    drafts: tuple[Draft, ...] = ()
    copy: Mapping[int, float] = field(default_factory=dict)

    @cached_property
    def placement(self) -> Placement:
        return plan(self.of, self.machine.ram, self.demand)

    @property
    def plain(self) -> Prediction:
        """A pass of one token, at the end of the context."""
        return self.at(self.demand.context)

    def at(self, context: int, tokens: int = 1) -> Prediction:
        """The same below a context of so many tokens, or of a pass of several."""
        return predict(self.of, self.placement, self.machine, tokens, context)

    def speculation(self, nodes: int, tokens: int) -> Speculation:
        """tokens a pass are an assumption: what they will be depends on the draft and on the text."""
        target = predict(self.of, self.placement, self.machine, nodes + 1, self.demand.context)
        width = max(1, round(nodes * DRAFT_SHARE))
        passes = DRAFT_PASSES * tokens
        drafting = sum(passes * draft.seconds(width, self.machine) for draft in self.drafts)
        drafting += passes * self._copied(width) if self.copy else 0
        return Speculation(nodes, tokens, target, drafting)

    def _copied(self, tokens: int) -> float:
        """Seconds of a pass with the low-bit copy of what streams, and the other layers as they are."""
        pinned = self.of.multiplied * self.placement.pinned // self.of.layers
        weights = arithmetic(pinned, self.machine.products, tokens) + arithmetic(self.of.multiplied - pinned, self.copy, tokens)
        full = self.at(self.demand.context, tokens)
        return weights + full.attention + full.calls

    def factor(self, of: "Outlook") -> float:
        """How many times as fast as another."""
        return self.speculation(*TYPICAL).tokens_per_second / of.speculation(*TYPICAL).tokens_per_second

    def with_memory(self, more: int) -> "Outlook":
        return replace(self, machine=replace(self.machine, ram=self.machine.ram + more))

    def with_disk(self, times: float) -> "Outlook":
        return replace(self, machine=replace(self.machine, disk=times * self.machine.disk))

    def with_processor(self, times: float) -> "Outlook":
        drafts = tuple(replace(draft, products=_faster(draft.products, times)) for draft in self.drafts)
        machine = replace(self.machine, products=_faster(self.machine.products, times),
                          attention={kv: _faster(rates, times) for kv, rates in self.machine.attention.items()},
                          chosen={kv: _faster(rates, times) for kv, rates in self.machine.chosen.items()},
                          layer=self.machine.layer / times)
        return replace(self, machine=machine, drafts=drafts, copy=_faster(self.copy, times))

    def with_products(self, products: Mapping[int, float]) -> "Outlook":
        """The target's."""
        return replace(self, machine=replace(self.machine, products=products))


def _faster(products: Mapping[int, float], times: float) -> Mapping[int, float]:
    return {n: times * rate for n, rate in products.items()}


@dataclass(frozen=True)
class Help:
    """A change, and how many times as fast it makes speculative decoding at TYPICAL."""

    what: str
    factor: float


def ranked(now: Outlook, changes: Iterable[tuple[str, Outlook]]) -> tuple[Help, ...]:
    """What helps most comes first."""
    found = (Help(what, changed.factor(now)) for what, changed in changes)
    return tuple(sorted(found, key=lambda help: -help.factor))
