"""From a model and a machine to figures: the ledger that `run` would use, this machine's rates, and what follows."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial

from cli import home
from cli.ledger import STORE_CONTEXT, check_vram, demand, positions, view_bytes
from cli.models import DRAFT_BITS, TREE
from cli.subject import Subject
from offload.disk import Sample
from offload.machine import Arithmetic, free_memory, measure, products
from offload.measured import Measured
from offload.outlook import Draft, Help, Outlook, ranked
from offload.plan import plan
from specexec.engines import rate
from specexec.kernels.library import why_not

MORE_MEMORY = 8 * 2**30
SMALLEST = 0.01  # seconds of a pass that is spent on weights


@dataclass(frozen=True)
class Asked:
    """context: positions; ram, vram: bytes that may be used; None for what there is. activations: bits.

    own: whether the target drafts for itself.
    """

    target: Subject
    drafts: tuple[Subject, ...]
    context: int | None
    ram: int | None
    vram: int | None
    activations: int
    own: bool = False


@dataclass(frozen=True)
class Forecast:
    asked: Asked
    context: int
    outlook: Outlook
    helps: tuple[Help, ...]

    def remarks(self) -> Iterator[str]:
        """What the person should know of the figures, a line each."""
        yield "tokens a pass are assumptions: they depend on the draft and the text. Attention over the context is not counted."
        if self.asked.target.layout == "rowmajor":
            reason = why_not() or f"{self.asked.target.name} is in rowmajor, which the torch reference runs"
            yield f"{reason}: {self.outlook.plain.arithmetic:.3g} s of arithmetic in a pass of one token, as measured"
        if self.outlook.plain.seconds < SMALLEST:
            yield "a model this small spends its time on other things than its weights: it will be slower than this"


def forecast(asked: Asked, cache: Measured) -> Forecast:
    """Raises TooLittleMemory before anything is measured, WrongUsage for what cannot be asked."""
    check_vram(asked.vram)
    context = positions(asked.target.config, asked.context, STORE_CONTEXT)
    own = view_bytes(asked.target.of, context, TREE) if asked.own else 0
    wanted, ram = demand(context, TREE, own + sum(draft.bytes for draft in asked.drafts)), asked.ram or free_memory()
    plan(asked.target.of, ram, wanted)
    machine = replace(measure(cache, sample(asked.target), arithmetic(asked.target, asked.activations)), ram=ram)
    if asked.vram is not None and machine.vram is not None:
        machine = replace(machine, vram=min(machine.vram, asked.vram))
    drafts = tuple(Draft(draft.of.multiplied, products(cache, arithmetic(draft, DRAFT_BITS)))
                   for draft in asked.drafts)
    outlook = Outlook(asked.target.of, wanted, machine, drafts)
    return Forecast(asked, context, outlook, ranked(outlook, _changes(outlook, asked, cache)))


def _changes(now: Outlook, asked: Asked, cache: Measured) -> Iterator[tuple[str, Outlook]]:
    yield "8 GiB more memory", now.with_memory(MORE_MEMORY)
    yield "a disk twice as fast", now.with_disk(2)
    yield "a processor twice as fast", now.with_processor(2)
    if asked.activations == 16 and asked.target.layout == "tile16":
        yield "--activations 8", now.with_products(products(cache, arithmetic(asked.target, 8)))


def arithmetic(of: Subject, bits: int) -> Arithmetic:
    return Arithmetic(rate.name(of.kind, of.layout, bits), partial(rate.rates, of.kind, of.layout, bits))


def sample(target: Subject) -> Sample:
    """Of the disk that the layers are on, or will be."""
    return Sample(target.files[0].parents[1] if target.files else home.models(), target.files)
