"""What a draft keeps of its context, and models that draft for themselves."""

from collections.abc import Sequence

from cli import low_bit
from cli.ledger import FULL, SELF, copied_sight, stands, windowed
from cli.low_bit import COPIED
from cli.models import ModelOptions
from cli.values import AUTO
from offload.stream import Streaming
from specexec.budget import Auto
from specexec.drafters.cascade import Cascade
from specexec.drafters.grow import Grow
from specexec.drafters.growing import Expander
from specexec.drafters.lookup import Chains, Recycled
from specexec.drafters.model import ModelExpander
from specexec.drafters.same import Same, SelfView
from specexec.drafters.tier import Tier
from specexec.engines.llamacpp_engine import LlamacppEngine
from specexec.engines.tree_engine import TreeEngine
from specexec.engines.weights_engine import WeightsEngine
from specexec.errors import WrongUsage
from specexec.kv.backing import Offloaded
from specexec.kv.cache import KVCache
from specexec.kv.quantised import BITS, UPPER, Quantised, UpperHalf
from specexec.kv.retrieval import Gathering
from specexec.kv.whole import BlockView
from specexec.kv.window import Sliding
from specexec.roles import WeightSource
from specexec.vocabulary import Vocabulary

__all__ = ["SELF", "check", "own", "sighted", "standing"]
BELOW = 64  # nodes at the most that a draft's own draft proposes
GUESSED = 0.005  # seconds of a draft's pass, below which looking texts up for it takes as long as it spares: measured


def check(names: Sequence[str], kind: str, kv: str) -> None:
    """Raises WrongUsage where --draft-kv `kind` means nothing to these drafts, or nothing beside --kv `kv`."""
    low_bit.check(names)
    own = next((name for name in names if name in (SELF, COPIED)), None)
    if own and kind == UPPER and kv not in ("int8", AUTO):
        raise WrongUsage(f"--draft {own} --draft-kv int4 reads the upper half of the model's own int8 KV cache.",
                         hint=f"--draft {own} --kv int8 --draft-kv int4")
    if own == COPIED and kind == "int8":
        raise WrongUsage(f"--draft {COPIED} has no KV cache of its own, but a view of the model's.",
                         hint="--draft-kv full, window or retrieval")
    if SELF in names and kind in ("full", "int8"):
        raise WrongUsage("--draft self with the whole KV cache is the model itself, no draft.",
                         hint="--draft-kv retrieval, or window")
    if kind in BITS and not set(names) - {"none", "lookup", "random"}:
        raise WrongUsage(f"--draft-kv {kind} is the format of a draft's own KV cache, and no model drafts.",
                         hint="a smaller model as the draft, or --draft self --kv int8 --draft-kv int4")
    if kind == "retrieval" and not set(names) - {"none", "lookup", "random"}:
        raise WrongUsage("--draft-kv retrieval is a view of a model's own KV cache, and no model drafts.",
                         hint="--draft self --draft-kv retrieval, or a smaller model as the draft")


def sighted(draft: TreeEngine, trained: int, context: int, kind: str) -> TreeEngine:
    """The draft as it is to see a context: a window of it where that was asked for, or where it has learnt no more."""
    if kind in BITS:
        return _quantised(draft, trained, context, kind)
    if not isinstance(draft, WeightsEngine):
        if kind == "window":
            raise WrongUsage("--draft-kv window: llama.cpp keeps all of a draft's context.", hint="--draft-kv auto")
        return draft
    return draft.forgetting(context) if windowed(kind, context, trained) else draft


def _quantised(draft: TreeEngine, trained: int, context: int, kv: str) -> TreeEngine:
    """The draft with keys and values of its own in that format."""
    if not isinstance(draft, WeightsEngine):
        raise WrongUsage(f"--draft-kv {kv}: llama.cpp keeps a draft's cache in formats of its own.", hint="--draft-kv auto")
    if context > trained:
        raise WrongUsage(f"--draft-kv {kv}: the draft has learnt {trained:,} positions, and sees a window of {context:,}.",
                         hint="--draft-kv auto")
    return draft.keeping(kv)


def own(target: TreeEngine, options: ModelOptions, others: Sequence[Expander], copy: WeightSource | None = None) -> Same:
    """The model itself over a view of its KV cache; below it, in its own passes, twins of the other drafts.

    copy: a low-bit one of what streams, with which it drafts.
    """
    if not isinstance(target, WeightsEngine):
        raise WrongUsage("--draft self: llama.cpp has no views of its KV cache.",
                         hint="--draft lookup, or the model converted: specexec convert FILE.gguf")
    if copy is not None:
        return _over(target, Vocabulary(None), _sight(target, options), others, copy)
    if isinstance(target.source, Streaming) and any(map(target.source.disk_bytes, range(len(target.source.pieces)))):
        raise WrongUsage("--draft self reads every layer again for each guess, and this model streams.",
                         hint="--draft NAME --draft-kv retrieval with a smaller model, --draft self:3bit, or --draft lookup")
    return _over(target, Vocabulary(None), options.draft_kv, others)


def _sight(target: WeightsEngine, options: ModelOptions) -> str:
    """What a low-bit copy sees."""
    if options.draft_kv == FULL and isinstance(target.cache, Offloaded):
        raise WrongUsage("--draft-kv full: a view copies what it sees of keys and values on disk.", hint="--draft-kv retrieval")
    return copied_sight(options.draft_kv, options.kv_place)


def standing(drafts: Sequence[Expander], options: ModelOptions, context: int) -> list[Expander]:
    """The same drafts, of which the first model has a draft of its own in its passes.

    That is itself over a view of its KV cache, where it sees all of a long context, and what looks texts up, where that drafts
    too: its passes check what those wrote, as the target's check its own.
    """
    models = [draft for draft in drafts if isinstance(draft, ModelExpander)]
    one = next((draft for draft in models if _sees_all(draft) and stands(options.draft_kv, draft.engine.limits.context)), None)
    if one is None and options.draft_kv == "retrieval":
        raise WrongUsage(f"no draft here has a view of a context of {context:,}.", hint="--draft-kv auto")
    first = one or next(iter(models), None)
    if first is None:
        return list(drafts)
    seen = first.engine.limits.context
    lookup = [_twin(draft, seen) for draft in drafts if isinstance(draft, Chains | Recycled)]
    below, least = (_viewed(first, drafts), 0.0) if one else (lookup, GUESSED)
    cascade = Cascade(Grow(below, seen), Auto(BELOW, least)) if below else None
    tier = Tier(first.engine, first.vocabulary, cascade)
    return [tier if draft is first else draft for draft in drafts]


def _viewed(one: ModelExpander, drafts: Sequence[Expander]) -> list[Expander]:
    """A model over a view of its cache, and in its passes twins of the other drafts."""
    assert isinstance(one.engine, WeightsEngine)
    return [_over(one.engine, one.vocabulary, "retrieval", [draft for draft in drafts if draft is not one])]


def _sees_all(draft: ModelExpander) -> bool:
    """All that there is of its context, in a cache that has views."""
    return isinstance(draft.engine, WeightsEngine) and not isinstance(draft.engine.cache, Sliding)


def _over(
    engine: WeightsEngine, vocabulary: Vocabulary, kind: str, others: Sequence[Expander], weights: WeightSource | None = None
) -> Same:
    """The engine's model over a view of its cache; what drafts for it, if anything does, are twins of others."""
    view, context = _view(engine.cache, kind), engine.limits.context
    below = [_twin(one, context) for one in others if isinstance(one, ModelExpander | Chains | Recycled)
             and not (isinstance(one, ModelExpander) and isinstance(one.engine, LlamacppEngine))]
    return Same(engine, view, Cascade(Grow(below, context), Auto(BELOW)) if below else None, vocabulary, weights)


def _view(cache: KVCache, kind: str) -> SelfView:
    """auto: all of a cache of eight bits that is here in a half of them, or some rows of any other."""
    if kind == "auto":
        halved = isinstance(cache, Quantised) and cache.bits > BITS[UPPER] and not isinstance(cache, Offloaded)
        kind = UPPER if halved else "retrieval"
    view = cache.view(kind)
    assert isinstance(view, Gathering | UpperHalf | BlockView)
    return view


def _twin(expander: ModelExpander | Chains | Recycled, context: int) -> Expander:
    """One that has learnt nothing, over a cache of its own."""
    if isinstance(expander, ModelExpander):
        assert isinstance(expander.engine, WeightsEngine)
        return ModelExpander(expander.engine.forgetting(context), expander.vocabulary)
    return type(expander)()
