"""What a model is to hold in memory: the same numbers for who runs it and for who only asks."""

from contextlib import suppress
from dataclasses import replace

from cli.models import Model, ModelOptions, parameters
from cli.values import AUTO
from offload.errors import TooLittleMemory
from offload.footprint import KV_BLOCK, Footprint, footprint
from offload.gguf import Gguf
from offload.gguf_plan import cell_bytes
from offload.kept import by_itself
from offload.plan import DEVICE, DISK, HOST, Demand, Placement, plan
from offload.store import Store
from offload.streamed import resident_bytes
from specexec.engines.architecture import Architecture
from specexec.engines.device import SMALL, choose_device
from specexec.errors import WrongUsage
from specexec.kv.quantised import BITS, UPPER
from specexec.kv.retrieval import KINDS
from specexec.kv.window import Sight

MEANS_ROOM = 1.25  # by which the room for means of keys may be larger than they are
SMALLER = "int8"  # what auto keeps of keys and values unasked
SELF = "self"  # the draft's name of the model itself
FULL = "full"  # a view of all rows
LONG = 4  # times the rows of a view: contexts for which a draft gets one without being asked
STORE_CONTEXT = 8192  # of a store's KV cache, where --ctx-size does not say


def positions(config: Architecture, wanted: int | None, default: int) -> int:
    """Of the KV cache. Raises WrongUsage for more than the model was trained on."""
    trained = config.max_position_embeddings
    if wanted is not None and wanted > trained:
        raise WrongUsage(f"--ctx-size {wanted:,}: the model's context is {trained:,}.", hint=f"--ctx-size {trained}, or less")
    return int(wanted or min(trained, default))


def check_vram(vram: int | None, device: str = "auto") -> None:
    """Raises WrongUsage where --vram bounds nothing. device: as --device names it."""
    if vram is None:
        return
    if device not in ("auto", "cuda"):
        raise WrongUsage(f"--vram bounds what a CUDA device holds; --device is {device}.", hint="one of the two")
    if choose_device(device).type != "cuda":
        raise WrongUsage("--vram: this machine has no CUDA device.", hint="the same command without --vram")


def demand(context: int, tree: int, drafts: int, chunk: int = 0, place: str = AUTO, copy: int = 0) -> Demand:
    """context: positions; tree: rows of the largest, below which as many may be missing, or `chunk`; drafts: bytes of those.

    place: as --kv-place names it. copy: bytes of a layer's low-bit one, if that drafts.
    """
    return Demand(context, 2 * tree, drafts, prompt=chunk + tree, place=DEVICE if place == AUTO else place, copy=copy)


def planned(of: Footprint, ram: int, wanted: Demand, kv: str) -> Placement:
    """kv: as --kv names it; auto is bf16, or int8 where it halves most of what a pass reads, or what alone fits.

    Raises TooLittleMemory, as bf16 does where nothing fits.
    """
    if kv != AUTO:
        return plan(of, ram, replace(wanted, kv=kv))
    try:
        placed = plan(of, ram, wanted)
        faster = not placed.streamed and by_itself(of, wanted.context)
        return plan(of, ram, replace(wanted, kv=SMALLER)) if faster else placed
    except TooLittleMemory as error:
        for smaller in BITS:
            with suppress(TooLittleMemory):
                return plan(of, ram, replace(wanted, kv=smaller))
        if wanted.place != DISK:
            with suppress(TooLittleMemory):
                planned(of, ram, replace(wanted, place=DISK), kv)
                error.hint += ", or --kv-place disk"
        raise


def sizes(store: Store) -> Footprint:
    """As its files are."""
    layers = [store.entry(name).nbytes for name in store.layers]
    return replace(footprint(store.config, store.quant), layer=max(layers), head=resident_bytes(store))


def view_bytes(of: Footprint, context: int, tree: int, kv: str = AUTO, kind: str = AUTO, place: str = AUTO) -> int:
    """What a model takes to draft for itself, at the most: its keys' means in fp32, rows of its own, and a pass's buffers.

    kind: of the view; all of a cache, or of its upper half, needs no means. place: rows that are elsewhere are copied to be
    seen.
    """
    elsewhere = place in (HOST, DISK)
    chosen = kind != FULL and (elsewhere or not (kv == SMALLER and kind in (AUTO, UPPER)))
    means = of.kv_token * MEANS_ROOM * context / KINDS["retrieval"].chunk if chosen else 0
    copies = of.kv_token * (KINDS["retrieval"].most + KV_BLOCK) if elsewhere else 0
    return int(means) + copies + (of.kv_token + of.work_token) * 2 * tree


def copied_sight(kind: str, place: str) -> str:
    """What a low-bit copy sees of the model's keys and values: all of them, but where they are elsewhere."""
    return kind if kind != AUTO else "retrieval" if place == DISK else FULL


def stands(kind: str, context: int) -> bool:
    """Whether a draft of a context drafts for itself as well: where that was asked for, or where most of it is out of sight."""
    return kind == "retrieval" or (kind == "auto" and context >= LONG * KINDS["retrieval"].rows)


def windowed(kind: str, context: int, trained: int) -> bool:
    """Whether a draft keeps a window of a context: where that was asked for, or where it has learnt no more."""
    return kind == "window" or (kind != "full" and context > trained)


def seen(kind: str, context: int, trained: int) -> int:
    """Rows of a context that a draft keeps."""
    return min(context, Sight().most) if windowed(kind, context, trained) else min(context, trained)


def draft_bytes(draft: Model, options: ModelOptions, context: int) -> int:
    """What a draft takes in memory: all of it stays there. context: the target's."""
    if isinstance(draft, Gguf):
        return draft.nbytes + cell_bytes(draft) * context
    of = sizes(draft) if isinstance(draft, Store) else footprint(draft.config, "int8")
    trained = draft.config.get("max_position_embeddings", context)
    kind = options.draft_kv
    return resident_weights(draft, options) + kept_bytes(of, trained, context, options.tree, kind, draft_format(options))


def draft_format(options: ModelOptions) -> str:
    """Of a draft's own keys and values; --draft-kv int4 beside --draft self is the model's view, and no draft's format."""
    return options.draft_kv if options.draft_kv in BITS and SELF not in options.drafts else "bf16"


def resident_weights(draft: Model, options: ModelOptions) -> int:
    """Of a model all of which stays in memory."""
    if isinstance(draft, Store):
        of = sizes(draft)
        return of.layers * of.layer + of.head
    if isinstance(draft, Gguf):
        return draft.nbytes
    return parameters(draft) * (4 if options.dtype == "fp32" or parameters(draft) < SMALL else 2)


def looked_at(tree: int) -> int:
    """Rows that a draft is given for trees of `tree` rows: most of those it evaluates are in none."""
    return 4 * tree


def kept_bytes(of: Footprint, trained: int, context: int, tree: int, kind: str, kv: str = "bf16") -> int:
    """A draft's keys and values, its passes' buffers, and its view of itself if it has one. kv: its format."""
    rows = seen(kind, context, trained)
    own = view_bytes(of, rows, tree) if not windowed(kind, context, trained) and stands(kind, rows) else 0
    return of.kv_bytes(kv, rows, 2 * looked_at(tree)) + of.work_token * 2 * tree + own
