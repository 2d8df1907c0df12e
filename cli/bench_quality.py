"""`specexec bench --quality`: what keys and values of 8 and 4 bits cost, on a model and a text of the person's own."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from cli import render, settings
from cli.bench import machine
from cli.build import open_session, versions
from cli.drafting import SELF
from cli.find import find
from cli.interrupt import Interrupt
from cli.low_bit import COPIED
from cli.models import Model, ModelOptions, opened
from cli.quality import judge, quantised_share, table, windows
from cli.question import read_text
from cli.session import AnswerOptions, Session
from offload.folder import Folder
from offload.footprint import footprint
from offload.store import Store
from specexec.engines.kernel_engine import KernelEngine
from specexec.errors import WrongUsage
from specexec.kernels.hierarchical import GROUP
from specexec.sampling import Sampling

WINDOW = 2048  # tokens, or the model's context where that is less
WRITTEN = 512  # of each text that the model writes itself
MOST = 32768  # of files
KERNELS = "--quality compares formats of keys and values on the CPU's kernels alone"


@dataclass(frozen=True)
class Texts:
    """said: what they are, for the person."""

    windows: list[list[int]]
    said: str


def bench_quality(openings: Sequence[str], as_json: bool, given: Mapping[str, Any]) -> int:
    """openings: of the texts that the model writes itself, where no file is named."""
    options = _options(given)
    with closing(open_session(options, Interrupt())) as session:
        engine = session.target
        if not isinstance(engine, KernelEngine):
            raise WrongUsage(f"{KERNELS}.", hint="a store in layout tile16, or a folder with --quant int8")
        if given["files"]:
            read = _of_files(session, given["files"])
        else:
            read = _written(session, engine, openings, given["seed"] or 0, as_json)
        cells = judge(engine, read.windows, lambda kv: render.note(f"reading with {kv} keys and values", as_json))
    of = footprint(opened(find(options.model, "target")).config, "bf16")
    result = {
        "machine": machine(), "versions": versions(), "model": options.model, "layers": _layers(options),
        "activations": options.activations, "text": read.said, "windows": len(read.windows), "window": session.context,
        "tokens": sum(len(window) - 1 for window in read.windows), "quantised_share": quantised_share(read.windows),
        "cells": [{**asdict(cell), "token_bytes": of.kv_position(cell.kv)} for cell in cells],
    }
    result["remarks"] = list(_remarks(result))
    if not as_json:
        render.write(table(result))
    render.write(json.dumps(result) + "\n")
    return 0


def _options(given: Mapping[str, Any]) -> ModelOptions:
    """With the cache's room of bf16, layers of int8 where a folder's are not quantised, and a context of one window."""
    if given["shape"]:
        raise WrongUsage("--quality of a --shape would be that of the bundled model it is made of.", hint="one of the two")
    options = settings.model_options(given)
    if options.kv != "auto":
        raise WrongUsage("--quality compares all formats of keys and values.", hint=f"the same without --kv {options.kv}")
    model = opened(find(options.model, "target"))
    quant = options.quant or ("int8" if isinstance(model, Folder) else None)
    drafts = tuple(name for name in options.drafts if name not in (SELF, COPIED)) or ("none",)
    context = options.context or min(WINDOW, _trained(model))
    return replace(options, quant=quant, kv="bf16", drafts=("none",) if given["files"] else drafts, context=context)


def _trained(model: Model) -> int:
    return int(model.config.get("max_position_embeddings") or WINDOW)


def _layers(options: ModelOptions) -> str:
    model = opened(find(options.model, "target"))
    return model.quant if isinstance(model, Store) else str(options.quant)


def _of_files(session: Session, files: Sequence[Path]) -> Texts:
    cut: list[list[int]] = []
    first, total = session.codec.encode_first(""), 0
    for path in files:
        ids = session.codec.encode(read_text(path))
        cut += windows(ids[: max(0, MOST - total)], first, session.context)
        total += len(ids)
    if not cut:
        raise WrongUsage(f"{files[0]} holds no text.", hint="-f with a text of some hundred words")
    kept = f", of which the first {MOST:,} are read" if total > MOST else ""
    return Texts(cut, f"{', '.join(map(str, files))}: {total:,} tokens{kept}")


def _written(session: Session, engine: KernelEngine, openings: Sequence[str], seed: int, quiet: bool) -> Texts:
    """What the model writes itself, on beyond its ends: the rise of log perplexity is then a divergence from bf16's law."""
    length = min(WRITTEN, session.context)
    writing = replace(session, eos=frozenset(), target=engine.keeping("bf16"))
    texts: list[list[int]] = []
    for number, opening in enumerate(openings):
        render.note(f"writing text {number + 1} of {len(openings)}", quiet)
        prompt = session.codec.encode_first(opening)
        made = writing.begin(prompt, options := AnswerOptions(Sampling(1.0), seed, None, length - len(prompt)))
        for _ in writing.stream(made, prompt, options, number):
            pass
        if session.interrupt.requested():
            raise KeyboardInterrupt
        texts.append([*prompt, *made.answer.ids])
    return Texts(texts, f"{len(texts)} texts that the model wrote itself in bf16, temperature 1, seed {seed}")


def _remarks(of: Mapping[str, Any]) -> Iterator[str]:
    yield (f"{of['model']}, layers {of['layers']}, {of['activations']}-bit activations; {of['text']}; "
           f"{of['tokens']:,} tokens scored in windows of {of['window']:,} at the most")
    yield f"{of['quantised_share']:.0%} of what the tokens see is quantised, the rest still bf16; intervals are of 95 %"
    if not of["quantised_share"]:
        yield f"no text is longer than {GROUP} tokens, so nothing was quantised: name a longer one with -f"
