"""From a model and a machine to figures: the ledger that `run` would use, this machine's rates, and what follows."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial

from cli import home
from cli.ledger import STORE_CONTEXT, check_vram, copied_sight, demand, kept_bytes, planned, positions, seen, view_bytes
from cli.low_bit import KIND
from cli.models import DRAFT_BITS, TREE
from cli.subject import Subject
from cli.values import AUTO
from offload.chunk import chunk
from offload.crossover import Resident, as_large
from offload.disk import Sample
from offload.kept import Way, ways
from offload.machine import BF16, Arithmetic, Calls, Machine, free_memory, measure, products
from offload.measured import Measured
from offload.outlook import Draft, Help, Outlook, ranked
from offload.size import size
from specexec.engines import attention_rate, layer_rate, rate
from specexec.kernels.library import why_not
from specexec.kv.quantised import BITS, UPPER
from specexec.kv.retrieval import KINDS

MORE_MEMORY = 8 * 2**30
ROWS = KINDS["retrieval"].rows
WHOLE, VIEWED = {BF16: 16}, {UPPER: BITS[UPPER]}  # bits of a format
SMALLEST = 0.01  # seconds of a pass that is spent on weights


@dataclass(frozen=True)
class Asked:
    """context: positions; ram, vram: bytes that may be used; None for what there is. activations: bits.

    own: whether the target drafts for itself; copied: whether a low-bit copy of it does. kv: format of its keys and values, or
    auto. place: of those, or auto.
    """

    target: Subject
    drafts: tuple[Subject, ...]
    context: int | None
    ram: int | None
    vram: int | None
    activations: int
    own: bool = False
    kv: str = AUTO
    place: str = AUTO
    copied: bool = False


@dataclass(frozen=True)
class Crossings:
    """Contexts: whose keys and values are as many bytes as the weights, over which attention takes as long as they, and from
    which on it pays that `who` drafts for itself over a view; None where the models see none so long."""

    bytes: int
    seconds: int | None
    who: str | None
    view: int | None


@dataclass(frozen=True)
class Forecast:
    asked: Asked
    context: int
    outlook: Outlook
    helps: tuple[Help, ...]

    @property
    def drafting(self) -> tuple[str, Resident] | None:
        """Who could draft for itself over a view, and what it is: the target, or its first draft where the target streams."""
        asked, machine = self.asked, self.outlook.machine
        if not self.outlook.placement.streamed:
            return asked.target.name, _resident(asked.target, machine.products, machine)
        if not asked.drafts:
            return None
        first, products = asked.drafts[0], self.outlook.drafts[0].products
        return first.name, _resident(first, products, machine)

    @property
    def crossings(self) -> Crossings:
        target, machine = self.asked.target, self.outlook.machine
        long = _resident(target, machine.products, machine).as_long()
        found = self.drafting
        return Crossings(as_large(target.of), long, *((found[0], found[1].pays(ROWS)) if found else (None, None)))

    @property
    def ways(self) -> tuple[Way, ...]:
        """To keep keys and values, and to draft over them, fastest first."""
        return ways(self.outlook, ROWS)

    def remarks(self) -> Iterator[str]:
        """What the person should know of the figures, a line each."""
        if (target := self.asked.target).fetch:
            yield f"not here: specexec pull {target.name} fetches {size(target.fetch)} and keeps {size(target.bytes)}"
        if self.asked.copied and not target.has_copy:
            takes = f"which takes {size(target.copy * target.of.layers)} of disk"
            yield f"the low-bit copy is not there yet: --copy {KIND} of pull and convert makes it, {takes}"
        yield "tokens a pass are assumptions: they depend on the draft and the text"
        first = self.outlook.at(0).seconds
        yield f"passes are those at the end of the context; at its beginning a plain one takes {first:.3g} s"
        if self.asked.target.layout == "rowmajor":
            reason = why_not() or f"{self.asked.target.name} is in rowmajor, which the torch reference runs"
            yield f"{reason}: {self.outlook.plain.arithmetic:.3g} s of arithmetic in a pass of one token, as measured"
        if self.outlook.plain.seconds < SMALLEST:
            yield "a model this small spends its time on other things than its weights: it will be slower than this"


def forecast(asked: Asked, cache: Measured) -> Forecast:
    """Raises TooLittleMemory before anything is measured, WrongUsage for what cannot be asked."""
    check_vram(asked.vram)
    context = positions(asked.target.config, asked.context, STORE_CONTEXT)
    drafting = sum(draft.bytes + kept_bytes(draft.of, draft.trained, context, TREE, AUTO) for draft in asked.drafts)
    drafting += view_bytes(asked.target.of, context, TREE, asked.kv, place=asked.place) if asked.own else 0
    if asked.copied:
        drafting += view_bytes(asked.target.of, context, TREE, asked.kv, copied_sight(AUTO, asked.place), asked.place)
    copy = asked.target.copy if asked.copied else 0
    wanted, ram = demand(context, TREE, drafting, place=asked.place, copy=copy), asked.ram or free_memory()
    kv = asked.kv if asked.target.layout == "tile16" or asked.kv != AUTO else "bf16"
    wanted = replace(wanted, kv=planned(asked.target.of, ram, wanted, kv).kv)
    found = measure(cache, sample(asked.target), arithmetic(asked.target, asked.activations), seeing(asked.target),
                    choosing(asked.target), calls(asked.target, asked.activations))
    machine = replace(found, ram=ram)
    if asked.vram is not None and machine.vram is not None:
        machine = replace(machine, vram=min(machine.vram, asked.vram))
    drafts = tuple(_draft(draft, context, cache) for draft in asked.drafts)
    if asked.target.layout == "tile16":
        tokens = chunk(asked.target.of, machine, wanted, TREE)
        wanted = replace(demand(context, TREE, drafting, tokens, asked.place, copy), kv=wanted.kv)
    low_bit = products(cache, _arithmetic(KIND, asked.target.layout, asked.activations)) if copy else {}
    outlook = Outlook(asked.target.of, wanted, machine, drafts, low_bit)
    return Forecast(asked, context, outlook, ranked(outlook, _changes(outlook, asked, cache)))


def _draft(of: Subject, context: int, cache: Measured) -> Draft:
    kv = of.of.kv_token * seen(AUTO, context, of.trained)
    return Draft(of.of.multiplied, products(cache, arithmetic(of, DRAFT_BITS)), kv, of.of.group, of.of.layers)


def _changes(now: Outlook, asked: Asked, cache: Measured) -> Iterator[tuple[str, Outlook]]:
    yield "8 GiB more memory", now.with_memory(MORE_MEMORY)
    yield "a disk twice as fast", now.with_disk(2)
    yield "a processor twice as fast", now.with_processor(2)
    if asked.activations == 16 and asked.target.layout == "tile16":
        yield "--activations 8", now.with_products(products(cache, arithmetic(asked.target, 8)))


def arithmetic(of: Subject, bits: int) -> Arithmetic:
    return _arithmetic(of.kind, of.layout, bits)


def _arithmetic(kind: str, layout: str | None, bits: int) -> Arithmetic:
    return Arithmetic(rate.name(kind, layout, bits), partial(rate.rates, kind, layout, bits))


def seeing(of: Subject) -> dict[str, Arithmetic]:
    """Attention over every format of keys and values that the engine of such weights reads, as it computes it."""
    return {kv: _seeing(of.layout, bits) for kv, bits in (WHOLE | BITS if of.layout == "tile16" else WHOLE).items()}


def choosing(of: Subject) -> dict[str, Arithmetic]:
    """The same over the rows that a view chooses, of all formats it reads."""
    return {kv: _seeing(of.layout, bits, ROWS) for kv, bits in (WHOLE | VIEWED).items() if of.layout == "tile16"}


def _seeing(layout: str | None, bits: int, chosen: int | None = None) -> Arithmetic:
    return Arithmetic(attention_rate.name(layout, bits, chosen),
                      partial(attention_rate.rates, layout, bits=bits, chosen=chosen))


def calls(of: Subject, bits: int) -> Calls | None:
    """What layers take besides, on the kernels."""
    return Calls(layer_rate.name(bits), partial(layer_rate.seconds, bits)) if of.layout == "tile16" else None


def _resident(of: Subject, products: Mapping[int, float], machine: Machine) -> Resident:
    return Resident(of.of, products, machine.seeing(), machine.choosing(), of.trained)


def sample(target: Subject) -> Sample:
    """Of the disk that the layers are on, or will be."""
    return Sample(target.files[0].parents[1] if target.files else home.models(), target.files)
