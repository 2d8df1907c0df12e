"""Keys and values on disk, alone and beside weights that stream: inside the ledger, the resident run's tokens in every tier."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch

from cli.drafting import own, standing
from cli.engines import Making
from cli.models import ModelOptions
from offload.plan import Placement
from offload.store import Store
from offload.stream import Streamer
from specexec.budget import Fixed
from specexec.drafters.grow import Grow, Nothing
from specexec.drafters.growing import Expander
from specexec.drafters.lookup import Chains, Recycled
from specexec.drafters.model import ModelExpander
from specexec.engines.kernel_engine import KernelEngine
from specexec.engines.tree_engine import TreeEngine
from specexec.errors import Interrupted
from specexec.kv.choice import Gather
from specexec.kv.copied import CopiedBlocks
from specexec.kv.offloaded import OffloadedBlocks
from specexec.kv.offloaded_hierarchical import OffloadedHierarchical
from specexec.kv.retrieval import KINDS
from specexec.kv.window import Sight
from specexec.vocabulary import Vocabulary
from tests.models import VOCABULARY
from tests.test_long_context import Stops
from tests.test_streamed_context import CHUNK, CONTEXT, LAYERS, engine, prompt, store, written

__all__ = ["store"]
DISK = ModelOptions(context=CONTEXT, kv_place="disk")
LENGTHS = [3_000, pytest.param(65_536, marks=pytest.mark.slow)]


@pytest.fixture(autouse=True)
def _chunk(monkeypatch: pytest.MonkeyPatch, at_exit: None) -> None:
    monkeypatch.setattr("cli.engines.prompt_chunk", lambda *given: CHUNK)


def ledger(of: Store, options: ModelOptions) -> Placement:
    return Making(of, options, VOCABULARY, lambda: False).placement(of, CONTEXT)


def entry(of: Placement, what: str) -> int:
    return next(entry.bytes for entry in of.ledger if entry.what == what)


@pytest.fixture
def opened() -> Iterator[list[Streamer]]:
    """What is closed at the end."""
    made: list[Streamer] = []
    yield made
    for source in made:
        source.close()


def away(of: Store, streams: bool, opened: list[Streamer], kv: str = "auto") -> KernelEngine:
    """Its keys and values on disk; streams: in so little memory that three layers' weights do."""
    options = replace(DISK, kv=kv)
    ram = ledger(of, options).bytes - 1 if streams else None
    made = Making(of, replace(options, ram=ram), VOCABULARY, lambda: False).engine()
    assert isinstance(made, KernelEngine)
    assert isinstance(made.source, Streamer)
    opened.append(made.source)
    assert len(made.source.pinned) == (LAYERS - 3 if streams else LAYERS)
    return made


def cache(of: TreeEngine) -> OffloadedBlocks | OffloadedHierarchical:
    assert isinstance(of.cache, OffloadedBlocks | OffloadedHierarchical)
    return of.cache


@pytest.mark.parametrize(("streams", "kv"), [(False, "auto"), (True, "auto"), (False, "int4"), (True, "int8")])
@pytest.mark.parametrize("length", LENGTHS)
def test_it_writes_what_the_resident_run_does_inside_the_ledger(
    store: Store, opened: list[Streamer], length: int, streams: bool, kv: str
) -> None:
    made, resident, tokens = away(store, streams, opened, kv), engine(store, False, kv), prompt(length)
    whole = written(resident, Nothing(), tokens)
    assert written(made, Nothing(), tokens) == whole
    assert cache(made).away > length - 512
    planned = entry(ledger(store, replace(DISK, kv=kv)), "KV cache's part in memory")
    assert cache(made).nbytes <= planned < entry(ledger(store, ModelOptions(context=CONTEXT, kv=kv)), "KV cache")
    drafting = Grow(standing([ModelExpander(resident, Vocabulary(None)), Chains(), Recycled()],
                             ModelOptions(draft_kv="retrieval"), CONTEXT), CONTEXT)
    assert written(made, drafting, tokens) == whole


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    few = {kind: Gather(64, 16, 16, 16, 16, scored=kind == "retrieval") for kind in KINDS}
    monkeypatch.setattr("specexec.kv.retrieval.KINDS", {**KINDS, **few})
    monkeypatch.setattr("specexec.kv.window.Sight", lambda: Sight(sinks=16, recent=32, slack=16))


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize(("kind", "below", "kv"), [("window", (), "bf16"), ("retrieval", ("lookup",), "bf16"),
                                                   ("retrieval", ("draft", "lookup"), "bf16"), ("window", (), "int8"),
                                                   ("auto", ("lookup",), "int8"), ("retrieval", (), "int4")])
def test_every_tier_above_it_writes_plain_decodings_text(
    store: Store, opened: list[Streamer], below: tuple[str, ...], kind: str, kv: str
) -> None:
    made, resident = away(store, False, opened, kv), engine(store, False, kv)
    small: list[Expander] = [ModelExpander(resident.forgetting(CONTEXT), Vocabulary(None))]  # type: ignore[attr-defined]
    others = [*(small if "draft" in below else []), *([Chains(), Recycled()] if "lookup" in below else [])]
    same = own(made, ModelOptions(drafts=("self",), draft_kv=kind), others)
    assert isinstance(same.view, CopiedBlocks)
    if same.cascade is not None:
        same.cascade.budget = Fixed(4)
    tokens, drafting = prompt(1_500), Grow([same, *others], CONTEXT)
    for turn in (tokens, tokens[:900], [*tokens[:1_200], *tokens[300:600]], tokens):
        assert written(made, drafting, turn, 30) == written(resident, Nothing(), turn, 30)
    assert same.view.choice.made > 3


@pytest.mark.parametrize("kv", ["bf16", "int8"])
def test_ctrl_c_in_mid_pass_leaves_it_as_it_was(store: Store, opened: list[Streamer], kv: str) -> None:
    made, tokens = away(store, True, opened, kv), prompt(2_000)
    whole = written(engine(store, False, kv), Nothing(), tokens)
    for after in (2, LAYERS + 3, 3 * LAYERS + 1):
        calm, made.stop = made.stop, Stops(after)
        with pytest.raises(Interrupted):
            written(made, Nothing(), tokens)
        made.stop = calm
    assert written(made, Nothing(), tokens) == whole


def test_what_waits_for_the_disk_is_said(store: Store, opened: list[Streamer]) -> None:
    made = away(store, False, opened)
    written(made, Nothing(), prompt(2_000), 4)
    assert made.waited == cache(made).waited > 0


@pytest.mark.parametrize("kv", ["bf16", "int8"])
def test_a_choice_sees_the_rows_it_would_see_in_memory(store: Store, opened: list[Streamer], kv: str) -> None:
    """Means and queries are those of the same model in memory."""
    chosen = []
    for target in (away(store, False, opened, kv), engine(store, False, kv)):
        view = target.cache.view("retrieval")  # type: ignore[attr-defined]
        view.choice.of = Gather(rows=128, first=16, recent=32, stride=16)
        written(target, Nothing(), prompt(2_000), 4)
        view.choice.make(target.cache.length)
        chosen.append(view.choice.chosen)
    assert torch.equal(*chosen)
