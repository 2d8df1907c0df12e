"""What a draft keeps of its context, and models that draft for themselves."""

from collections.abc import Sequence

from cli.ledger import stands, windowed
from cli.models import ModelOptions
from offload.stream import Streaming
from specexec.budget import Auto
from specexec.drafters.cascade import Cascade
from specexec.drafters.grow import Grow
from specexec.drafters.growing import Expander
from specexec.drafters.lookup import Chains, Recycled
from specexec.drafters.model import ModelExpander
from specexec.drafters.same import Same
from specexec.drafters.tier import Tier
from specexec.engines.tree_engine import TreeEngine
from specexec.errors import WrongUsage
from specexec.kv.retrieval import Gathering
from specexec.kv.window import Sliding
from specexec.vocabulary import Vocabulary

SELF = "self"
BELOW = 64  # nodes at the most that a draft's own draft proposes


def check(names: Sequence[str], kind: str) -> None:
    """Raises WrongUsage where --draft-kv `kind` means nothing to these drafts."""
    if SELF in names and kind == "full":
        raise WrongUsage("--draft self with the whole KV cache is the model itself, no draft.",
                         hint="--draft-kv retrieval, or window")
    if kind == "retrieval" and not set(names) - {"none", "lookup", "random"}:
        raise WrongUsage("--draft-kv retrieval is a view of a model's own KV cache, and no model drafts.",
                         hint="--draft self --draft-kv retrieval, or a smaller model as the draft")


def sighted(draft: TreeEngine, trained: int, context: int, kind: str) -> TreeEngine:
    """The draft as it is to see a context: a window of it where that was asked for, or where it has learnt no more."""
    return draft.forgetting(context) if windowed(kind, context, trained) else draft


def own(target: TreeEngine, options: ModelOptions, others: Sequence[Expander]) -> Same:
    """The model itself over a view of its KV cache; below it, in its own passes, twins of the other drafts."""
    if isinstance(target.source, Streaming) and any(map(target.source.disk_bytes, range(len(target.source.pieces)))):
        raise WrongUsage("--draft self reads every layer again for each guess, and this model streams.",
                         hint="--draft NAME --draft-kv retrieval with a smaller model, or --draft lookup")
    return _over(target, Vocabulary(None), "retrieval" if options.draft_kv == "auto" else options.draft_kv, others)


def standing(drafts: Sequence[Expander], options: ModelOptions, context: int) -> list[Expander]:
    """The same drafts, of which the first that sees all of a long context drafts for itself, over a view of its KV cache.

    Its own passes check what the view wrote, as the target's check its own.
    """
    one = next((draft for draft in drafts if isinstance(draft, ModelExpander) and _sees_all(draft)), None)
    if one is None or not stands(options.draft_kv, one.engine.limits.context):
        if options.draft_kv == "retrieval":
            raise WrongUsage(f"no draft here has learnt to see a context of {context:,}.", hint="--draft-kv window")
        return list(drafts)
    assert isinstance(one.engine, TreeEngine)
    view = _over(one.engine, one.vocabulary, "retrieval", [draft for draft in drafts if draft is not one])
    tier = Tier(one.engine, one.vocabulary, Cascade(Grow([view], one.engine.limits.context), Auto(BELOW)))
    return [tier if draft is one else draft for draft in drafts]


def _sees_all(draft: ModelExpander) -> bool:
    return isinstance(draft.engine, TreeEngine) and not isinstance(draft.engine.cache, Sliding)


def _over(engine: TreeEngine, vocabulary: Vocabulary, kind: str, others: Sequence[Expander]) -> Same:
    """The engine's model over a view of its cache; what drafts for it, if anything does, are twins of others."""
    view, context = engine.cache.view(kind), engine.limits.context
    assert isinstance(view, Gathering)
    below = [_twin(one, context) for one in others if isinstance(one, ModelExpander | Chains | Recycled)]
    return Same(engine, view, Cascade(Grow(below, context), Auto(BELOW)) if below else None, vocabulary)


def _twin(expander: ModelExpander | Chains | Recycled, context: int) -> Expander:
    """One that has learnt nothing, over a cache of its own."""
    if isinstance(expander, ModelExpander):
        assert isinstance(expander.engine, TreeEngine)
        return ModelExpander(expander.engine.forgetting(context), expander.vocabulary)
    return type(expander)()
