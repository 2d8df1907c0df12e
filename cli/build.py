"""Puts the parts together: model, engine, drafter, tokenizer."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.metadata import version

import torch

from cli import cache_file, fit, low_bit
from cli.cache_file import CacheFile
from cli.codec import Codec
from cli.drafting import SELF, check, own, sighted, standing
from cli.engines import Making, draft_quant, store_device
from cli.find import find
from cli.identity import weights
from cli.interrupt import Interrupt
from cli.ledger import STORE_CONTEXT, copied_sight, draft_bytes, draft_format, looked_at, positions, sizes, view_bytes
from cli.low_bit import COPIED
from cli.models import DRAFT_BITS, Model, ModelOptions, eos, opened, parameters, sampling
from cli.pulse import Pulse
from cli.render import note
from cli.session import Session
from cli.values import AUTO, Nodes
from offload.footprint import footprint
from offload.gguf import Gguf
from offload.kept import by_itself
from offload.store import Store
from offload.stream import Streamer, Streaming
from specexec.budget import Auto
from specexec.drafters.grow import Grow, Nothing
from specexec.drafters.growing import Expander
from specexec.drafters.lookup import Chains, Recycled
from specexec.drafters.model import ModelExpander
from specexec.drafters.wild import Wild
from specexec.engines.device import choose_device, choose_threads
from specexec.engines.families import admit
from specexec.engines.tree_engine import TreeEngine
from specexec.engines.weights_engine import WeightsEngine
from specexec.errors import WrongUsage
from specexec.kernels.library import instruction_set
from specexec.kv.quantised import BITS, Quantised
from specexec.roles import Drafter, Engine
from specexec.vocabulary import Vocabulary, match

__all__ = ["ModelOptions", "open_session", "versions"]
MODELLESS = ("none", "lookup", "random", SELF, COPIED)


def open_session(options: ModelOptions, interrupt: Interrupt) -> Session:
    """Loads the target and what drafts for it."""
    model = opened(find(options.model, "target"))
    if options.cache:
        cache_file.check(options.cache.resolve(), model)
    names = resolve(options)
    context = positions(admit(model.config), options.context, STORE_CONTEXT)
    drafts = sum(draft_bytes(opened(find(name, "draft")), options, context) for name in names if name not in MODELLESS)
    pulse = Pulse(interrupt)
    copy = low_bit.copy_bytes(options.model, model) if COPIED in names else 0
    if isinstance(model, Store) and (copy or SELF in names):
        sight = copied_sight(options.draft_kv, options.kv_place) if copy else options.draft_kv
        drafts += view_bytes(sizes(model), context, options.tree, options.kv, sight, options.kv_place)
    engine, codec = _engine(model, options, pulse, drafts, copy)
    drafter = _drafter(names, options, engine, codec, interrupt)
    choose_threads(parameters(model))
    source = engine.source if isinstance(engine, WeightsEngine) else None
    streamer, kv = source if isinstance(source, Streaming) else None, _kv(engine)
    return Session(engine, drafter, codec, eos(model), sampling(model.generation), interrupt, fresh(engine), pulse,
                   int(model.config["num_hidden_layers"]), streamer,
                   model.config.get("max_position_embeddings", engine.limits.context),
                   footprint(model.config, "bf16").kv_position(kv),
                   _smaller(kv, model, context) if options.kv == AUTO and kv in BITS else None,
                   _kept(model, options, engine, interrupt))


def _kept(model: Model, options: ModelOptions, engine: TreeEngine, interrupt: Interrupt) -> CacheFile | None:
    """Raises WrongUsage for an engine whose rows no file holds."""
    if options.cache is None:
        return None
    made = {"specexec": version("specexec"), "weights": weights(model.path)[:16], "quant": options.quant or "as stored",
            "arithmetic": engine.arithmetic if isinstance(engine, WeightsEngine) else ""}
    return CacheFile(options.cache.resolve(), engine, made, lambda text: note(text, options.quiet), interrupt.requested)


def _kv(engine: TreeEngine) -> str:
    """The format of its keys and values."""
    return engine.cache.kind if isinstance(engine.cache, Quantised) else "bf16"


def _smaller(kv: str, model: Model, context: int) -> str:
    """Why keys and values are in that format, which nobody asked for."""
    if isinstance(model, Store) and by_itself(sizes(model), context):
        return (f"keys and values are {kv}: at a context of {context:,} they are most of what a pass reads; --kv bf16 keeps "
                "them whole")
    return f"keys and values are {kv}: bf16 does not fit; a smaller --ctx-size may leave room for it"


def fresh(engine: Engine) -> Auto:
    """What knows nothing yet of the best budget."""
    return Auto(min(Nodes.LARGEST, engine.limits.tree - 1))


def open_drafter(names: Sequence[str], options: ModelOptions, session: Session) -> Drafter:
    """Another one for the same target."""
    return _drafter(names, options, session.target, session.codec, session.interrupt)


def _engine(
    model: Model, options: ModelOptions, stop: Callable[[], bool], drafts: int = 0, copy: int = 0
) -> tuple[TreeEngine, Codec]:
    codec = Codec(model.path, options.raw)
    making = Making(model, options, max(codec.vocabulary.values()) + 1, stop, drafts, copy)
    return making.engine(), codec


def _drafter(names: Sequence[str], options: ModelOptions, engine: Engine, codec: Codec, interrupt: Interrupt) -> Drafter:
    if "none" in names:
        return Nothing()
    others = [name for name in names if name not in (SELF, COPIED)]
    expanders = [found for name in others for found in _expanders(name, options, engine, codec, interrupt)]
    if len(others) < len(names):
        assert isinstance(engine, TreeEngine)
        copy = low_bit.weights(opened(find(options.model, "target")), engine) if COPIED in names else None
        return Grow([own(engine, options, expanders, copy), *expanders], engine.limits.context)
    idle = engine.source if isinstance(engine, WeightsEngine) and isinstance(engine.source, Streamer) else None
    return Grow(standing(expanders, options, engine.limits.context), engine.limits.context, idle)


def resolve(options: ModelOptions) -> list[str]:
    """auto is the usual draft, and lookup always. Raises WrongUsage for none beside others."""
    usual = [*fit.usual(options), "lookup"] if "auto" in options.drafts else []
    names = list(dict.fromkeys(name for given in options.drafts for name in (usual if given == "auto" else [given])))
    if "none" in names and len(names) > 1:
        raise WrongUsage("--draft none contradicts the other --draft.", hint="one of the two")
    check(names, options.draft_kv, options.kv)
    return names


def _expanders(name: str, options: ModelOptions, target: Engine, codec: Codec, interrupt: Interrupt) -> Sequence[Expander]:
    if name == "lookup":
        return [Chains(), Recycled()]
    if name == "random":
        return [Wild(target.limits.vocabulary)]
    model = opened(find(name, "draft"))
    fitting = _match(options, codec, model)
    everything = 2 * (draft_bytes(model, options, target.limits.context) + 2**32)  # a draft is never streamed
    on_gpu = isinstance(model, Store) and store_device(model, replace(options, vram=None)).type == "cuda"
    trained = model.config.get("max_position_embeddings", target.limits.context)
    context = min(target.limits.context, trained)
    quant, dtype = (None, "auto") if isinstance(model, Gguf) else (draft_quant(options), options.dtype)
    alone = replace(options, model=name, quant=quant, dtype=dtype, activations=DRAFT_BITS, context=context, ram=everything,
                    kv="bf16", kv_place="auto", vram=everything if on_gpu else None,
                    nodes=looked_at(min(target.limits.tree, Nodes.LARGEST + 1)) - 1)
    draft, _ = _engine(model, alone, interrupt.requested)
    kind = draft_format(options) if options.draft_kv in BITS else options.draft_kv
    return [ModelExpander(sighted(draft, trained, target.limits.context, kind), fitting)]


def _match(options: ModelOptions, codec: Codec, draft: Model) -> Vocabulary:
    """Raises WrongUsage, naming the drafts here that would fit."""
    try:
        return match(codec.vocabulary, Codec(draft.path).vocabulary)
    except WrongUsage as error:
        found = list(fit.drafts(find(options.model, "target")))
        others = ", or one of: " + ", ".join(found) if found else ", or --draft lookup"
        raise WrongUsage(str(error), hint=f"--draft auto{others}") from error


def versions() -> dict[str, str]:
    """Of what a figure depends on."""
    return {"torch": torch.__version__, "transformers": version("transformers"), "device": str(choose_device()),
            "kernels": instruction_set()}
