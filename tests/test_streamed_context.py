"""Long prompts over weights that stream: a stream for each chunk, the resident run's tokens, and Ctrl-C that loses no chunk."""

from collections.abc import Sequence

import pytest

from cli.chunk import prompt_chunk
from cli.drafting import standing
from cli.engines import Making
from cli.main import main
from cli.models import ModelOptions
from offload.errors import TooLittleMemory
from offload.store import Store
from offload.stream import Streamer
from specexec.budget import Fixed
from specexec.decode import decode
from specexec.drafters.grow import Grow, Nothing
from specexec.drafters.lookup import Chains, Recycled
from specexec.drafters.model import ModelExpander
from specexec.drafters.tier import Tier
from specexec.engines.tree_engine import TreeEngine
from specexec.errors import Interrupted
from specexec.noise import Noise
from specexec.roles import Drafter
from specexec.sampling import Sampling
from specexec.vocabulary import Vocabulary
from tests.cli.conftest import LAYOUT
from tests.kernels import need
from tests.models import VOCABULARY, save
from tests.specexec.test_decode import answer_of
from tests.test_long_context import Stops

CONTEXT, CHUNK, LAYERS = 66_000, 512, 4
SHAPE = {"hidden_size": 64, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 32, "num_hidden_layers": LAYERS,
         "intermediate_size": 64, "max_position_embeddings": CONTEXT}
LENGTHS = [5_000, pytest.param(65_536, marks=pytest.mark.slow)]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    need()
    folder = tmp_path_factory.mktemp("models")
    source = save("llama", folder / "source", **SHAPE)
    assert main(["convert", str(source), "--to", "int8", "--out", str(folder / "store"), "--layout", LAYOUT, "-q"]) == 0
    return Store(folder / "store")


@pytest.fixture(autouse=True)
def _chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cli.engines.prompt_chunk", lambda *given: CHUNK)


def engine(store: Store, streams: bool, kv: str = "auto") -> TreeEngine:
    """streams: in so little memory that three layers do."""
    options = ModelOptions(context=CONTEXT, kv=kv)
    resident = Making(store, options, VOCABULARY, lambda: False)
    if not streams:
        return resident.engine()
    ram = resident.placement(store, CONTEXT).bytes - 1
    made = Making(store, ModelOptions(context=CONTEXT, ram=ram), VOCABULARY, lambda: False).engine()
    assert isinstance(made.source, Streamer)
    assert len(made.source.pinned) == LAYERS - 3
    return made


def prompt(length: int) -> list[int]:
    """That repeats itself, so that something can be guessed."""
    return [2 + at * at % 71 for at in range(length)]


def written(target: TreeEngine, drafter: Drafter, tokens: Sequence[int], count: int = 24, nodes: int = 16) -> list[int]:
    answer = answer_of(count, tokens)
    noise = Noise(3, 0, len(tokens), VOCABULARY)
    list(decode(target, drafter, Fixed(nodes), Sampling(1.0), noise, tokens, answer))
    return answer.ids


@pytest.mark.parametrize("length", LENGTHS)
def test_streamed_weights_write_what_resident_ones_do(store: Store, length: int) -> None:
    """Plainly, and below a resident draft that stands on a view of its own cache."""
    streamed, resident, tokens = engine(store, True), engine(store, False), prompt(length)
    assert isinstance(streamed.source, Streamer)
    whole = written(resident, Nothing(), tokens)
    assert written(streamed, Nothing(), tokens, 1) == whole[:1]
    a_pass = sum(map(streamed.source.disk_bytes, range(LAYERS)))
    assert 0 < streamed.source.streamed_bytes == a_pass * -(-(length - 1) // CHUNK), "a stream for each chunk"
    draft = ModelExpander(resident, Vocabulary(None))
    drafting = Grow(standing([draft, Chains(), Recycled()], ModelOptions(draft_kv="retrieval"), CONTEXT), CONTEXT)
    top = drafting.expanders[0]
    assert isinstance(top, Tier)
    assert top.cascade is not None
    top.cascade.budget = Fixed(8)
    before = streamed.passes
    assert written(streamed, drafting, tokens) == whole
    assert streamed.passes - before < len(whole) / 2
    assert top.cascade.passes
    streamed.source.close()


@pytest.mark.parametrize("chunks", [0, 1, 4])
def test_ctrl_c_in_a_long_prompt_keeps_what_was_read(store: Store, chunks: int) -> None:
    target, tokens = engine(store, True), prompt(3_000)
    whole = written(target, Nothing(), tokens, 4)
    target.cache.truncate(0)
    calm, target.stop = target.stop, Stops(chunks * LAYERS + 2)  # type: ignore[attr-defined]
    with pytest.raises(Interrupted):
        written(target, Nothing(), tokens, 4)
    assert (target.cache.length, len(target.cache.branches)) == (chunks * CHUNK, 0)
    target.stop, target.passes = calm, 0  # type: ignore[attr-defined]
    assert written(target, Nothing(), tokens, 4) == whole
    assert target.passes == 3 + -(-2999 // CHUNK) - chunks
    assert isinstance(target.source, Streamer)
    target.source.close()


def test_a_context_that_does_not_fit_is_refused_by_the_one_that_does(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cli.engines.prompt_chunk", prompt_chunk)
    ram = Making(store, ModelOptions(context=8192), VOCABULARY, lambda: False).placement(store, 8192).bytes
    with pytest.raises(TooLittleMemory) as refused:
        Making(store, ModelOptions(context=CONTEXT, ram=ram), VOCABULARY, lambda: False).engine()
    named = int(refused.value.hint.split("--ctx-size ")[1].split(",")[0])
    assert 8192 <= named < CONTEXT
    made = Making(store, ModelOptions(context=named, ram=ram), VOCABULARY, lambda: False).engine()
    assert made.limits.context == named
