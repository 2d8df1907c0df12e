"""What lives where on a machine with a device: in its memory, page-locked in the host's, or on disk. Pure, as plan.py."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from offload.errors import TooLittleMemory
from offload.footprint import KV_GROUP, Away, Footprint, away
from offload.plan import DEVICE, HOST, PROGRAM, READER_BLOCK, SLOTS, Demand, Entry, Placement, gib, total

CUDA = 768 * 2**20  # its context, cuBLAS's workspaces, bitsandbytes' kernels; published sizes, not measured here
ROUNDED = 2**21  # torch's allocator gives out memory in such steps
SCORES, SCORE = 2**25, 12  # attention scores at a time, and bytes of all that is made of one (9 measured)
ENDING = 8 * 16 * 128  # rows of groups that end in a tree, at a time, by fp32 copies of each: an estimate
DEQUANTISED, SCRATCH = 2**25, 2**26  # weights of a matrix at a time, and bytes that making them takes besides


@dataclass(frozen=True)
class DeviceFootprint:
    """What a model takes of a device, in bytes. layer: a file and its vectors in the dtype computed in. work: of a pass."""

    layer: int
    head: int
    kv_token: int
    work: int


def on_device(config: Mapping[str, Any], of: Footprint, demand: Demand, itemsize: int, cast: int) -> DeviceFootprint:
    """itemsize: bytes of the dtype computed in. cast: bytes of a layer's vectors in that dtype, 0 where they stay fp32."""
    width, ffn, heads = config["hidden_size"], config["intermediate_size"], config["num_attention_heads"]
    kv_heads = config.get("num_key_value_heads") or heads
    dim = config.get("head_dim") or width // heads
    keys = demand.context + demand.tree
    token = itemsize * 4 * (width + (heads + 2 * kv_heads) * dim + ffn) + 12 * width  # norms are computed in fp32
    masks = demand.tree * (16 * demand.tree + (12 * keys if config.get("sliding_window") else 0))
    scores = SCORE * min(heads * demand.tree * keys, max(SCORES, heads * keys))
    logits = 2 * max(READER_BLOCK, 4 * of.vocabulary)
    ending = 0 if demand.kv == "bf16" else 4 * ENDING * kv_heads * dim
    work = demand.tree * token + masks + scores + ending + DEQUANTISED * itemsize + SCRATCH + logits
    layer = -(-(of.layer + cast) // ROUNDED) * ROUNDED
    return DeviceFootprint(layer, of.head, of.layers * 2 * kv_heads * dim * itemsize, work)


def plan_device(of: Footprint, device: DeviceFootprint, ram: int, vram: int, demand: Demand) -> Placement:
    """ram, vram: bytes that may be used in all; demand.draft lies in vram. Raises TooLittleMemory, naming the least."""
    fixed = (
        Entry("CUDA", CUDA),
        Entry("head and last norm", device.head),
        _kv_entry(of, device, demand),
        Entry("a pass's buffers", device.work),
        Entry("draft", demand.draft),
    )
    room, ring = vram - total(fixed), min(SLOTS, of.layers)
    if room >= of.layers * device.layer:
        held, slots = of.layers, 0
    elif (held := room // device.layer - ring) >= 0:
        slots = ring
    else:
        raise _too_little(total(fixed) + ring * device.layer, vram, "GPU memory", "--vram")
    layers = (Entry("layers in GPU memory", held * device.layer), Entry("ring of GPU buffers", slots * device.layer))
    kept = _away(of, device, demand).all if demand.place == HOST else 0
    return replace(_on_host(of, ram, held, slots, (*fixed, *layers), kept), kv=demand.kv)


def _kv_entry(of: Footprint, device: DeviceFootprint, demand: Demand) -> Entry:
    if demand.place == HOST:
        return Entry("KV cache's part in GPU memory", _away(of, device, demand).here)
    if demand.kv == "bf16":
        return Entry("KV cache", device.kv_token * (demand.context + demand.tree))
    whole = demand.context // KV_GROUP * KV_GROUP
    return Entry("KV cache", of.kv_position(demand.kv) * whole + device.kv_token * (2 * KV_GROUP + demand.tree))


def _away(of: Footprint, device: DeviceFootprint, demand: Demand) -> Away:
    return away(of, demand.kv, device.kv_token, demand.context, demand.tree, demand.tree)


def _on_host(of: Footprint, ram: int, held: int, slots: int, vram: tuple[Entry, ...], kv: int) -> Placement:
    """Where the layers wait that do not stay on the device: page-locked, or on disk before a ring of page-locked buffers.

    A layer that stays on the device passes through memory once; what is reserved for the others has room for that. kv: bytes
    of keys and values.
    """
    fixed = (Entry("program", PROGRAM + CUDA), Entry("head as it is read", of.head), Entry("page-locked KV cache", kv))
    rest, room = of.layers - held, (ram - total(fixed)) // of.layer
    if room < min(rest, SLOTS) or room < 1:
        raise _too_little(total(fixed) + (min(rest, SLOTS) or 1) * of.layer, ram, "memory", "--ram")
    ring = 0 if room >= rest else SLOTS
    pinned = min(rest, room - ring)
    ledger = (*fixed, Entry("page-locked layers", pinned * of.layer), Entry("page-locked ring of buffers", ring * of.layer),
              Entry("a layer as it is read", 0 if rest else of.layer))
    return Placement(pinned, ring, (rest - pinned) * of.layer, ledger, held, slots, rest * of.layer, vram,
                     place=HOST if kv else DEVICE)


def _too_little(least: int, given: int, what: str, option: str) -> TooLittleMemory:
    return TooLittleMemory(f"this model needs {gib(least)} of {what} at the least; {gib(given)} may be used.",
                           hint=f"{option} {gib(least)}, or a smaller --ctx-size")
