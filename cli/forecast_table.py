"""A forecast as a person reads it, and as a program does."""

from collections.abc import Iterable, Iterator
from dataclasses import asdict
from typing import Any

from cli.forecast import Forecast
from cli.models import TREE
from offload.crossover import GUESSES, RIGHT
from offload.outlook import TYPICAL

GIB = 2**30
NODES, TOKENS = (16, 32, 64, 128), (4, 8, 12)  # of the table; tokens a pass
WORTH_SAYING = 1.005  # times as fast


def text(of: Forecast) -> str:
    return "\n".join([_title(of), "", *_ledger(of), "", *_speeds(of), "", *_kept(of), "", *_conclusions(of), ""])


def _title(of: Forecast) -> str:
    target, counted = of.asked.target, of.asked.target.of
    return f"{target.name} as {target.kind}: {counted.multiplied / 1e9:.3g} G weights a token, {target.bytes / GIB:.2f} GiB"


def _ledger(of: Forecast) -> Iterator[str]:
    placed, sizes = of.outlook.placement, of.asked.target.of
    yield from _table(("in memory", "GiB"), ((entry.what, f"{entry.bytes / GIB:.2f}") for entry in placed.ledger))
    yield f"| together, of {of.outlook.machine.ram / GIB:.2f} | {placed.bytes / GIB:.2f} |"
    yield ""
    away = sizes.layers - placed.pinned
    read = f"{away} are read from disk in every pass: {placed.streamed / GIB:.2f} GiB" if away else "none is read from disk"
    yield _context(of)
    yield f"context {of.context:,}; {placed.pinned} of {sizes.layers} layers in memory, {read}"


def _context(of: Forecast) -> str:
    """Where keys and values begin to count."""
    found, kv = of.crossings, of.asked.target.of.kv_position(of.outlook.placement.kv)
    long = f", and takes as long to attend to from {found.seconds:,} on" if found.seconds else ""
    view = f"; {found.who} drafting for itself over a view pays from {found.view:,} on" if found.view else ""
    away = ", on disk, read in every pass as far as they are filled" if of.outlook.placement.kv_disk else ""
    return (f"keys and values: {kv * of.context / GIB:.2f} GiB for {of.context:,} tokens{away}; as large as the weights from "
            f"{found.bytes:,} on{long}{view}")


def _speeds(of: Forecast) -> Iterator[str]:
    machine, plain = of.outlook.machine, of.outlook.plain
    rates = ", ".join(_figure(rate / 1e9) for rate in machine.products.values())
    seeing = ", ".join(_figure(rate / 1e9) for rate in machine.seeing().values())
    yield f"measured: disk {machine.disk / 1e9:.2f} GB/s; {rates} G weights/s for {_listed(machine.products)} tokens at once"
    yield f"keys and values: {seeing} GB/s for {_listed(machine.seeing())} queries of a head at once"
    if machine.vram is not None and machine.bus is not None:
        yield f"device: {machine.vram / GIB:.2f} GiB free, {machine.bus / 1e9:.1f} GB/s to it; not in these figures"
    yield ""
    rows = [("0", _figure(plain.seconds), plain.limit, _figure(1 / plain.seconds), *("" for _ in TOKENS))]
    rows += [_row(of, nodes) for nodes in NODES]
    yield from _table(("nodes", "s a pass", "limit", "tokens/s at 1 a pass", *(f"at {tokens}" for tokens in TOKENS)), rows)


def _row(of: Forecast, nodes: int) -> tuple[str, ...]:
    found = [of.outlook.speculation(nodes, tokens) for tokens in TOKENS]
    target = found[0].target
    return (str(nodes), _figure(target.seconds), target.limit, "", *(_figure(made.tokens_per_second) for made in found))


def _kept(of: Forecast) -> Iterator[str]:
    """Ways to keep keys and values."""
    rows = ((way.options, _figure(way.seconds), _figure(way.draft) if way.draft else "", _figure(way.speed)) for way in of.ways)
    yield from _table((f"at the end of {of.context:,}", "s a pass", "s a draft pass", "tokens/s"), rows)
    yield f"with --draft self where {RIGHT} of {GUESSES} guesses are right; this plan is of --kv {of.outlook.placement.kv}"


def _conclusions(of: Forecast) -> Iterator[str]:
    yield from of.remarks()
    nodes, tokens = TYPICAL
    limit = of.outlook.speculation(nodes, tokens).target.limit
    yield f"limit: {of.outlook.plain.limit}" + (f"; {limit} with {nodes} nodes" if limit != of.outlook.plain.limit else "")
    helps = ", ".join(f"{help.what} {help.factor:.2f} x" for help in of.helps if help.factor >= WORTH_SAYING)
    yield f"what would help most, at {nodes} nodes and {tokens} tokens a pass: {helps or 'none of memory, disk, processor'}"


def as_json(of: Forecast) -> dict[str, Any]:
    """Bytes, seconds and tokens a second."""
    placed, plain, machine, target = of.outlook.placement, of.outlook.plain, of.outlook.machine, of.asked.target
    return {
        "model": target.name, "format": target.kind, "weights": target.of.parameters, "model_bytes": target.bytes,
        "fetch_bytes": target.fetch,
        "draft": [draft.name for draft in of.asked.drafts], "ctx_size": of.context, "activations": of.asked.activations,
        "ledger": {entry.what: entry.bytes for entry in placed.ledger}, "ledger_bytes": placed.bytes,
        "layers": target.of.layers, "layers_in_memory": placed.pinned, "streamed_bytes": placed.streamed,
        "machine": {"ram_bytes": machine.ram, "vram_bytes": machine.vram, "disk_bytes_per_second": machine.disk,
                    "bus_bytes_per_second": machine.bus, "weights_per_second": dict(machine.products),
                    "attention_bytes_per_second": {kv: dict(rates) for kv, rates in machine.attention.items()},
                    "chosen_bytes_per_second": {kv: dict(rates) for kv, rates in machine.chosen.items()},
                    "layer_seconds": machine.layer},
        "kv_bytes": target.of.kv_position(placed.kv) * of.context, "kv_disk_bytes": placed.kv_disk,
        "prompt_chunk": of.outlook.demand.prompt - TREE,
        "crossings": asdict(of.crossings), "kv": placed.kv,
        "ways": [{"options": way.options, "kv": way.kv, "view": way.view, "pass_seconds": way.seconds,
                  "draft_seconds": way.draft, "tokens_per_second": way.speed} for way in of.ways],
        "plain": {"pass_seconds": plain.seconds, "stream_seconds": plain.stream, "arithmetic_seconds": plain.arithmetic,
                  "attention_seconds": plain.attention, "calls_seconds": plain.calls,
                  "tokens_per_second": 1 / plain.seconds, "limit": plain.limit},
        "speculative": [_cell(of, nodes, tokens) for nodes in NODES for tokens in TOKENS],
        "helps": [{"change": help.what, "factor": help.factor} for help in of.helps], "remarks": list(of.remarks()),
    }


def _cell(of: Forecast, nodes: int, tokens: int) -> dict[str, Any]:
    found = of.outlook.speculation(nodes, tokens)
    return {"nodes": nodes, "tokens_per_pass": tokens, "pass_seconds": found.target.seconds, "draft_seconds": found.draft,
            "tokens_per_second": found.tokens_per_second, "limit": found.target.limit}


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> Iterator[str]:
    yield "| " + " | ".join(head) + " |"
    yield "|---" + "|---:" * (len(head) - 1) + "|"
    yield from ("| " + " | ".join(row) + " |" for row in rows)


def _figure(number: float) -> str:
    """Three digits or more, and no exponent that a person has to read."""
    return f"{number:,.0f}" if number >= 1000 else f"{number:.3g}"


def _listed(numbers: Iterable[int]) -> str:
    return ", ".join(map(str, numbers))
