"""What lives where: a pure function of the model, the memory there is, and what the person asked for."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch

from offload.errors import TooLittleMemory
from offload.footprint import Away, Footprint, away

PROGRAM = (600 if torch.version.cuda is None else 1000) * 2**20  # Python, torch and transformers themselves, measured
READER_BLOCK = 2**23  # of logits
STEP = 256  # of contexts that are proposed
SLOTS = 2  # buffers of the ring: one being read, one in use
DEVICE, HOST, DISK = "device", "host", "disk"  # where keys and values are; without a device the first two are one


@dataclass(frozen=True)
class Demand:
    """context: tokens the KV cache is to hold. tree: rows of the largest pass over a tree, and of the KV cache besides.

    draft: bytes of what drafts. kv: format of keys and values: bf16, int8 or int4. prompt: rows of a pass that reads a prompt,
    where they are more. place: of keys and values: device, host (a device's machine) or disk. copy: bytes of a layer's low-bit
    copy, which layers that stream have in memory; 0: they have none.
    """

    context: int
    tree: int
    draft: int = 0
    kv: str = "bf16"
    prompt: int = 0
    place: str = DEVICE
    copy: int = 0

    @property
    def rows(self) -> int:
        """Of the largest pass."""
        return max(self.tree, self.prompt)


@dataclass(frozen=True)
class Entry:
    what: str
    bytes: int


@dataclass(frozen=True)
class Placement:
    """pinned: layers that stay in memory. streamed: bytes read in every pass. ledger: all that is allocated.

    With a device: on_device layers stay there; the others, `copied` bytes, pass through device_slots buffers of it in every
    pass, `pinned` of them from page-locked memory. vram: the device's ledger. kv: format of keys and values. kv_disk: bytes
    of them on disk, of which a pass reads those that are filled; place: where they are.
    """

    pinned: int
    slots: int
    streamed: int
    ledger: tuple[Entry, ...]
    on_device: int = 0
    device_slots: int = 0
    copied: int = 0
    vram: tuple[Entry, ...] = ()
    kv: str = "bf16"
    kv_disk: int = 0
    place: str = DEVICE

    @property
    def bytes(self) -> int:
        return total(self.ledger)

    @property
    def device_bytes(self) -> int:
        return total(self.vram)


def total(ledger: Iterable[Entry]) -> int:
    return sum(entry.bytes for entry in ledger)


def plan(of: Footprint, ram: int, demand: Demand) -> Placement:
    """ram: bytes that may be used in all. Raises TooLittleMemory, naming the least that works."""
    fixed = (
        Entry("program", PROGRAM),
        Entry("head and last norm", of.head),
        _kv_entry(of, demand),
        Entry("a pass's buffers", of.work_token * demand.rows + READER_BLOCK),
        Entry("draft", demand.draft),
    )
    room, kv_disk = ram - total(fixed), _away(of, demand).all if demand.place == DISK else 0
    if room >= of.layers * of.layer:
        whole = Entry("layers in memory", of.layers * of.layer)
        return Placement(of.layers, 0, 0, (*fixed, whole), kv=demand.kv, kv_disk=kv_disk, place=demand.place)
    copies = of.layers * demand.copy
    pinned = (room - SLOTS * of.layer - copies) // (of.layer - demand.copy)
    if pinned < 0:
        least = total(fixed) + min(SLOTS * of.layer + copies, of.layers * of.layer)
        raise TooLittleMemory(f"this model needs {gib(least)} of memory at the least; {gib(ram)} may be used.",
                              hint=f"--ram {gib(least)}{_instead(of, demand, least - ram, copies)}")
    others = of.layers - pinned
    ring = (Entry("layers in memory", pinned * of.layer), Entry("ring of buffers", SLOTS * of.layer))
    copied = (Entry("low-bit copy of the others", others * demand.copy),) if demand.copy else ()
    ledger = (*fixed, *ring, *copied)
    return Placement(pinned, SLOTS, others * of.layer, ledger, kv=demand.kv, kv_disk=kv_disk, place=demand.place)


def _kv_entry(of: Footprint, demand: Demand) -> Entry:
    if demand.place == DISK:
        return Entry("KV cache's part in memory", _away(of, demand).here)
    return Entry("KV cache", of.kv_bytes(demand.kv, demand.context, demand.tree, demand.rows))


def _away(of: Footprint, demand: Demand) -> Away:
    return away(of, demand.kv, of.kv_token, demand.context, demand.tree, demand.rows)


def check_resident(weights: int, kv_token: int, context: int, free: int, path: Path) -> None:
    """Raises TooLittleMemory where a model that cannot stream, and keys and values of so many positions, are too much."""
    least = weights + kv_token * context
    if least > free:
        fits = longest(context, least - free, kv_token)
        shorter = f"--ctx-size {fits}, or " if fits else ""
        raise TooLittleMemory(f"this model and a context of {context:,} need {gib(least)} of memory; {gib(free)} is free.",
                              hint=f"{shorter}specexec convert {path}, so that it can stream")


def longest(context: int, missing: int, kv_token: int) -> int:
    """The longest context that takes so many bytes less; 0 where none does."""
    return max(0, (context - -(-missing // kv_token)) // STEP * STEP)


def _instead(of: Footprint, demand: Demand, missing: int, copies: int) -> str:
    """What would do in the memory there is. copies: bytes of all layers' low-bit ones."""
    ways = f", or --draft lookup: the copy of all layers takes {gib(copies)}" if copies >= missing else ""
    position = of.kv_position(demand.kv)
    if context := longest(demand.context, missing, position):
        saved = position * (demand.context - context)
        ways += f", or --ctx-size {context}, which takes {gib(saved)} less than {demand.context:,}"
    return ways or ", or another model: no context is small enough"


def gib(size: int) -> str:
    """Rounded up, in a form that --ram takes."""
    return f"{-(-size * 10 // 2**30) / 10:g}GiB"
