"""`--draft self:3bit`: a model that streams drafts for itself with a low-bit copy, and writes what it writes without one."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from cli.build import open_session
from cli.engines import Making
from cli.find import find
from cli.interrupt import Interrupt
from cli.ledger import copied_sight, sizes, view_bytes
from cli.low_bit import COPIED, copy_bytes
from cli.models import ModelOptions
from cli.name import BUNDLED
from cli.session import AnswerOptions, Session
from offload.convert import convert
from offload.errors import TooLittleMemory
from offload.expand import expanded
from offload.expansion import Expansion
from offload.folder import Folder
from offload.low_bit import with_copy
from offload.low_bit_source import LowBit
from offload.manifest import copy_name
from offload.plan import Placement
from offload.store import Store
from specexec.drafters.grow import Grow
from specexec.drafters.same import Same
from specexec.engines.kernel_engine import KernelEngine
from specexec.kv.retrieval import Gathering
from specexec.kv.whole import BlockView
from specexec.sampling import Sampling
from tests.cli.conftest import Specexec
from tests.cli.test_errors import assert_refused
from tests.kernels import need
from tests.offload.test_expand import SHAPED
from tests.offload.test_store import Nobody, flip

LAYERS, CONTEXT = 16, 512
ASKED = ("--ctx-size", str(CONTEXT), "--temp", "1", "--seed", "5", "-n", "24", "--json", "Once upon a time")
GREEDY, SAMPLED = (Sampling(temperature) for temperature in (0.0, 1.0))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """The bundled target among inert layers, so many that a copy of them takes less than what it leaves room for."""
    need()
    path = tmp_path_factory.mktemp("copied") / "store"
    shape = SHAPED["exact"] | {"num_hidden_layers": LAYERS}
    blueprint = expanded(Expansion(Folder(find(BUNDLED, "target")), shape, "deep"), "nf4", "tile16")
    convert(with_copy(blueprint, "3bit"), path, Nobody())
    return Store(path)


def placement(store: Store, ram: int, drafts: int | None = None, **options: Any) -> Placement:
    """What run does with so much memory, where the model drafts for itself so."""
    given, of = ModelOptions(context=CONTEXT, ram=ram, **options), sizes(store)
    sight = copied_sight(given.draft_kv, given.kv_place)
    own = view_bytes(of, CONTEXT, given.tree, given.kv, sight, given.kv_place)
    return Making(store, given, 0, lambda: False, own, copy_bytes("it", store)).placement(store, CONTEXT)


def memory(store: Store, pinned: int, **options: Any) -> int:
    """Bytes in which so many layers stay, and all others have their copy."""
    of, whole = sizes(store), placement(store, 2**40, **options)
    copies = (LAYERS - pinned) * copy_bytes("it", store)
    return whole.bytes - (LAYERS - pinned - 2) * of.layer + copies


def opened(store: Store, ram: int | None = None, **options: Any) -> Session:
    return open_session(ModelOptions(str(store.path), (COPIED,), context=CONTEXT, ram=ram, **options), Interrupt())


def ids(session: Session, prompt: Sequence[int], sampling: Sampling, number: int = 0, tokens: int = 24) -> list[int]:
    options = AnswerOptions(sampling, 7, 16, tokens)
    made = session.begin(prompt, options)
    list(session.stream(made, prompt, options, number))
    return list(made.answer.ids)


def plain(store: Store, ram: int | None = None) -> Session:
    return open_session(ModelOptions(str(store.path), ("none",), context=CONTEXT, ram=ram), Interrupt())


def own(session: Session) -> Same:
    assert isinstance(session.drafter, Grow)
    found = session.drafter.expanders[0]
    assert isinstance(found, Same)
    return found


# --- exactness


@pytest.mark.parametrize("pinned", [0, 5, LAYERS])
@pytest.mark.parametrize("sampling", [GREEDY, SAMPLED])
def test_it_writes_what_plain_decoding_writes(store: Store, sampling: Sampling, pinned: int) -> None:
    """Turn by turn, over one cache; guesses stream nothing."""
    session = opened(store, memory(store, pinned) if pinned < LAYERS else None)
    assert session.streamer is not None
    away = sum(map(session.streamer.disk_bytes, range(LAYERS)))
    assert away == (LAYERS - pinned) * sizes(store).layer
    alone, prompt = plain(store), session.codec.encode("Once upon a time")
    passes = 0
    for number in range(2):
        before = session.target.passes
        found, wanted = ids(session, prompt, sampling, number), ids(alone, prompt, sampling, number)
        assert found == wanted
        prompt = [*prompt, *wanted[:15], *session.codec.encode("Then the dog")]  # some of it is taken back
        passes += session.target.passes - before
    assert passes < 2 * 24 / 1.8
    assert session.streamer.streamed_bytes == passes * away
    session.close()


@pytest.mark.parametrize("after", [1, 20, 90])
def test_ctrl_c_in_a_guess_leaves_all_as_it_was(store: Store, after: int, monkeypatch: pytest.MonkeyPatch) -> None:
    session, alone = opened(store, memory(store, 3)), plain(store)
    prompt, left = session.codec.encode("Once upon a time"), [after]

    def stop() -> bool:
        left[0] -= 1
        return left[0] == 0

    with monkeypatch.context() as patch:
        patch.setattr(own(session).engine, "stop", stop)
        cut = ids(session, prompt, SAMPLED)
    whole = ids(alone, prompt, SAMPLED)
    assert cut == whole[: len(cut)]
    assert len(cut) < len(whole)
    assert ids(session, prompt, SAMPLED) == whole
    session.close()


@pytest.mark.parametrize(("kv", "view"), [("bf16", "full"), ("int8", "auto"), ("int8", "int4"), ("int4", "full"),
                                          ("int4", "retrieval"), ("bf16", "retrieval"), ("bf16", "window")])
def test_over_every_format_and_view(store: Store, kv: str, view: str, specexec: Specexec) -> None:
    ram = str(memory(store, 4, kv=kv, draft_kv=view))
    ways = (("none",), (COPIED, "--draft-kv", view, "--ram", ram, "--budget", "12"))
    common = ("-m", str(store.path), "--kv", kv, *ASKED)
    ran = [specexec("run", "--draft", *way, *common) for way in ways]
    assert [one.code for one in ran] == [0, 0], ran[1].err
    alone, found = (json.loads(one.out) for one in ran)
    assert found["token_ids"] == alone["token_ids"]
    assert found["tokens_per_pass"] > 1.5
    assert found["streamed_bytes"] > alone["streamed_bytes"] == 0


def test_beside_keys_and_values_on_disk_it_sees_chosen_rows(store: Store, specexec: Specexec) -> None:
    common, ram = ("run", "-m", str(store.path), *ASKED), str(memory(store, 4, kv_place="disk"))
    drafting = ("--kv-place", "disk", "--draft", COPIED, "--budget", "12", "--ram", ram)
    found, wanted = (json.loads(specexec(*common, *way).out) for way in (drafting, ("--draft", "none")))
    assert found["token_ids"] == wanted["token_ids"]
    assert found["tokens_per_pass"] > 1.5
    assert_refused(specexec(*common, *drafting, "--draft-kv", "full"), "keys and values on disk", "--draft-kv retrieval")


def test_lookup_may_draft_below_it(store: Store, specexec: Specexec) -> None:
    given = ("run", "-m", str(store.path), "--budget", "16", *ASKED)
    ways = (("--draft", "none"), ("--draft", COPIED, "--draft", "lookup", "--ram", str(memory(store, 4))))
    found = [json.loads(specexec(*given, *way).out)["token_ids"] for way in ways]
    assert found[0] == found[1]


# --- what it is made of


def test_what_stays_is_read_as_it_is_and_what_streams_from_the_copy(store: Store) -> None:
    session = opened(store, memory(store, 5))
    drafting = own(session)
    assert isinstance(drafting.engine, KernelEngine)
    assert isinstance(drafting.view, BlockView)
    weights, streamer = drafting.engine.source, session.streamer
    assert isinstance(weights, LowBit)
    assert streamer is not None
    for index in range(LAYERS):
        with weights.layer(index) as tensors:
            codes = tensors["mlp.up_proj.weight"]
            assert codes.shape[1] == {True: 3 * 1024 // 32, False: 1024 // 8}[streamer.disk_bytes(index) > 0]
    assert weights.nbytes == (LAYERS - 5) * store.entry(copy_name(0)).nbytes
    assert not isinstance(own(opened(store, draft_kv="full")).view, Gathering)
    session.close()


def test_a_damaged_copy_ends_in_two_lines_before_a_word(store: Store, specexec: Specexec) -> None:
    path = store.path / copy_name(3)
    flip(path, 9000)
    ran = specexec("run", "-m", str(store.path), "--draft", COPIED, "--ram", str(memory(store, 0)), *ASKED)
    flip(path, 9000)
    assert (ran.code, ran.out) == (5, "")
    assert_refused(ran._replace(code=2), copy_name(3), "specexec verify")


# --- the ledger


def test_every_layer_is_there_once_as_it_is_or_as_a_copy(store: Store) -> None:
    of, copy = sizes(store), copy_bytes("it", store)
    for pinned in (0, 1, 7):
        placed = placement(store, memory(store, pinned))
        assert placed.pinned == pinned
        assert placed.streamed == (LAYERS - pinned) * of.layer
        taken = {entry.what: entry.bytes for entry in placed.ledger}
        assert taken["layers in memory"] == pinned * of.layer
        assert taken["low-bit copy of the others"] == (LAYERS - pinned) * copy
        assert memory(store, pinned) - of.layer < placed.bytes <= memory(store, pinned)
    assert placement(store, 2**40).pinned == LAYERS


def test_what_does_not_fit_even_so_is_refused(store: Store, specexec: Specexec) -> None:
    ram = memory(store, 0)
    with pytest.raises(TooLittleMemory):
        placement(store, ram - 2**24)  # a little less is taken from what a prompt's chunk needs
    ran = specexec("run", "-m", str(store.path), "--draft", COPIED, "--ram", str(ram - 2**24), *ASKED)
    assert (ran.code, ran.out) == (3, "")
    assert_refused(ran._replace(code=2), "of memory at the least", "--draft lookup: the copy of all layers takes 0.1GiB")
    assert specexec("run", "-m", str(store.path), "--draft", "lookup", "--ram", str(ram - 2**24), *ASKED).code == 0


def test_the_view_holds_no_more_than_was_planned(store: Store) -> None:
    session = opened(store, memory(store, 5))
    ids(session, session.codec.encode("Once upon a time"), SAMPLED)
    planned = view_bytes(sizes(store), CONTEXT, ModelOptions().tree, "bf16", "full")
    assert 0 < own(session).view.nbytes <= planned
    session.close()


# --- what is refused


def test_a_model_without_a_copy_says_what_makes_one(bundled_store: Path, specexec: Specexec) -> None:
    for model in ("bundled", str(bundled_store)):
        ran = specexec("run", "-m", model, "--draft", COPIED, "Once")
        assert_refused(ran, f"{model} has none", f"specexec convert {model} --copy 3bit")


@pytest.mark.parametrize(("given", "said", "hint"), [
    (("self:2bit",), "self:2bit", "--draft self:3bit"),
    (("self:",), "self:", "--draft self:3bit"),
    ((COPIED, "--draft", "self"), "contradicts", "one of the two"),
    ((COPIED, "--draft", "none"), "contradicts", "one of the two"),
    ((COPIED, "--draft-kv", "int8"), "has no KV cache of its own", "--draft-kv full"),
    ((COPIED, "--draft-kv", "int4", "--kv", "bf16"), "upper half", "--kv int8"),
])
def test_what_cannot_be_is_refused(given: tuple[str, ...], said: str, hint: str, specexec: Specexec) -> None:
    assert_refused(specexec("run", "--draft", *given, "Once"), said, hint)


def test_the_torch_engine_reads_no_copy(specexec: Specexec, tmp_path: Path) -> None:
    assert specexec("convert", "bundled", "--layout", "rowmajor", "--out", str(tmp_path / "rows"), "-q").code == 0
    ran = specexec("run", "-m", str(tmp_path / "rows"), "--draft", COPIED, "Once")
    assert_refused(ran, "CPU's kernels", "--layout tile16 --copy 3bit")
