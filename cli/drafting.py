"""What a draft keeps of its context, and a model that drafts for itself."""

from collections.abc import Sequence

from cli.models import ModelOptions
from offload.stream import Streaming
from specexec.budget import Auto
from specexec.drafters.cascade import Cascade
from specexec.drafters.grow import Grow
from specexec.drafters.growing import Expander
from specexec.drafters.lookup import Chains, Recycled
from specexec.drafters.model import ModelExpander
from specexec.drafters.same import Same, SelfView
from specexec.engines.llamacpp_engine import LlamacppEngine
from specexec.engines.tree_engine import TreeEngine
from specexec.engines.weights_engine import WeightsEngine
from specexec.errors import WrongUsage
from specexec.kv.cache import KVCache
from specexec.kv.hierarchical import UPPER, HierarchicalCache, UpperView
from specexec.kv.retrieval import Gathering

SELF = "self"
BELOW = 64  # nodes at the most that a draft's own draft proposes


def check(names: Sequence[str], kind: str, kv: str) -> None:
    """Raises WrongUsage where --draft-kv `kind` means nothing to these drafts, or nothing beside --kv `kv`."""
    if kind == UPPER and (SELF not in names or kv != "int8"):
        raise WrongUsage("--draft-kv int4 reads the upper half of the model's own int8 KV cache.",
                         hint="--draft self --kv int8 --draft-kv int4")
    if SELF in names and kind == "full":
        raise WrongUsage("--draft self with the whole KV cache is the model itself, no draft.",
                         hint="--draft-kv retrieval, or window")
    if SELF not in names and kind == "retrieval":
        raise WrongUsage("--draft-kv retrieval is a view of the model's own KV cache.",
                         hint="--draft self --draft-kv retrieval")


def sighted(draft: TreeEngine, trained: int, context: int, kind: str) -> TreeEngine:
    """The draft as it is to see a context: a window of it where that was asked for, or where it has learnt no more."""
    if not isinstance(draft, WeightsEngine):
        if kind == "window":
            raise WrongUsage("--draft-kv window: llama.cpp keeps all of a draft's context.", hint="--draft-kv auto")
        return draft
    windowed = kind == "window" or (kind != "full" and context > trained)
    return draft.forgetting(context) if windowed else draft


def own(target: TreeEngine, options: ModelOptions, others: Sequence[Expander]) -> Same:
    """The model itself over a view of its KV cache; below it, in its own passes, twins of the other drafts."""
    if not isinstance(target, WeightsEngine):
        raise WrongUsage("--draft self: llama.cpp has no views of its KV cache.",
                         hint="--draft lookup, or the model converted: specexec convert FILE.gguf")
    if isinstance(target.source, Streaming) and any(map(target.source.disk_bytes, range(len(target.source.pieces)))):
        raise WrongUsage("--draft self reads every layer again for each guess, and this model streams.",
                         hint="--draft lookup, or a smaller model as the draft")
    view = _view(target.cache, options.draft_kv)
    below = [_twin(one, target.limits.context) for one in others if isinstance(one, ModelExpander | Chains | Recycled)
             and not (isinstance(one, ModelExpander) and isinstance(one.engine, LlamacppEngine))]
    return Same(target, view, Cascade(Grow(below, target.limits.context), Auto(BELOW)) if below else None)


def _view(cache: KVCache, kind: str) -> SelfView:
    """auto: all of a quantised cache in a half of its bits, or some rows of any other."""
    if kind == "auto":
        kind = UPPER if isinstance(cache, HierarchicalCache) else "retrieval"
    view = cache.view(kind)
    assert isinstance(view, Gathering | UpperView)
    return view


def _twin(expander: ModelExpander | Chains | Recycled, context: int) -> Expander:
    """One that has learnt nothing, over a cache of its own."""
    if isinstance(expander, ModelExpander):
        assert isinstance(expander.engine, WeightsEngine)
        return ModelExpander(expander.engine.forgetting(context), expander.vocabulary)
    return type(expander)()
