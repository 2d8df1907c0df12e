"""--kv: what it takes, what the ledger says of it, and two lines for what cannot be."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from cli.build import open_session
from cli.find import find
from cli.interrupt import Interrupt
from cli.ledger import draft_bytes, planned, sizes
from cli.main import main
from cli.models import TREE, ModelOptions, opened
from offload.errors import TooLittleMemory
from offload.footprint import KV_GROUP, Footprint, footprint
from offload.plan import Demand, plan
from offload.store import Store
from specexec.drafters.grow import Grow
from specexec.drafters.model import ModelExpander, unread
from specexec.drafters.same import Same
from specexec.kernels.hierarchical import GROUP
from specexec.kv.hierarchical import HierarchicalCache, UpperView
from specexec.kv.hierarchical_dense import HierarchicalDense
from specexec.kv.quantised import BITS
from specexec.tree import DraftTree
from tests.cli.conftest import Specexec
from tests.cli.test_errors import assert_refused
from tests.cli.test_plan import LLAMA_70B
from tests.kernels import need

ASKED = ("--seed", "3", "--temperature", "1", "-n", "150", "--json", "-q", "Once upon a time")
GIB = 2**30


@pytest.fixture(scope="module", autouse=True)
def _compiled() -> None:
    need()


def said(specexec: Specexec, *options: str) -> str:
    code, out, err = specexec("run", *options, *ASKED)
    assert (code, err) == (0, "")
    return str(json.loads(out)["text"])


@pytest.mark.parametrize("spelled", [("--kv", "int8"), ("--kv-bits", "8")])
def test_one_text_for_every_draft(specexec: Specexec, spelled: tuple[str, ...]) -> None:
    own = ("--draft", "self")
    drafts = (("--draft", "none"), (*own, "--budget", "8"), (*own, "--draft-kv", "int4", "--budget", "9"))
    assert len({said(specexec, "--quant", "int8", *spelled, *draft) for draft in drafts}) == 1


@pytest.mark.parametrize("kv", list(BITS))
def test_weights_that_are_not_quantised_have_the_same_formats(specexec: Specexec, kv: str) -> None:
    view = "int4" if kv == "int8" else "retrieval"
    drafts = (("none",), ("self", "--draft-kv", view, "--budget", "8"), ("bundled", "--draft-kv", kv, "--dtype", "fp32"))
    assert_same_until_close(specexec, ["--kv", kv], drafts)


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("stores") / "rows"
    assert main(["convert", "bundled", "--to", "int8", "--out", str(path), "--layout", "rowmajor", "-q"]) == 0
    return path


@pytest.mark.parametrize("kv", list(BITS))
def test_so_has_a_store_that_the_kernels_do_not_read(specexec: Specexec, kv: str, rows: Path) -> None:
    session = open_session(ModelOptions(str(rows), drafts=("self",), kv=kv, context=1024), Interrupt())
    assert isinstance(session.target.cache, HierarchicalDense)
    assert session.target.cache.bits == BITS[kv]
    assert_same_until_close(specexec, ["-m", str(rows), "--kv", kv], (("none",), ("self",)))


def assert_same_until_close(specexec: Specexec, options: list[str], drafts: Sequence[Sequence[str]]) -> None:
    """The ids with every draft, up to the first one that the first of them reports as close."""
    plain, *others = (json.loads(specexec("run", *options, "--draft", *draft, *ASKED).out) for draft in drafts)
    close = plain["first_close_call"]
    assert close != 0
    assert all(one["token_ids"][:close] == plain["token_ids"][:close] for one in others)


@pytest.mark.parametrize(("kv", "bits"), list(BITS.items()))
def test_the_cache_is_what_was_asked_for(kv: str, bits: int) -> None:
    session = open_session(ModelOptions(drafts=("bundled",), quant="int8", kv=kv), Interrupt())
    assert isinstance(session.target.cache, HierarchicalCache)
    assert session.target.cache.bits == bits
    assert list(session.remarks) == []


@pytest.mark.parametrize(("kv", "draft_kv"), [("int8", "retrieval"), ("int8", "window"), ("int4", "auto"), ("int4", "window")])
def test_rows_are_chosen_among_quantised_ones_too(specexec: Specexec, kv: str, draft_kv: str) -> None:
    own = ("--draft", "self", "--draft-kv", draft_kv, "--budget", "8")
    assert len({said(specexec, "--quant", "int8", "--kv", kv, *draft) for draft in (("--draft", "none"), own)}) == 1


@pytest.mark.parametrize("kv", list(BITS))
def test_a_draft_keeps_keys_and_values_of_its_own_in_fewer_bits(kv: str) -> None:
    drafter = open_session(ModelOptions(drafts=("bundled",), draft_kv=kv), Interrupt()).drafter
    assert isinstance(drafter, Grow)
    draft = drafter.expanders[0]
    assert isinstance(draft, ModelExpander)
    assert isinstance(draft.engine.cache, HierarchicalCache)
    assert draft.engine.cache.bits == BITS[kv]


def test_which_changes_no_text(specexec: Specexec) -> None:
    formats = (("--draft-kv", kv, "--budget", "8") for kv in ("auto", *BITS))
    assert len({said(specexec, *given) for given in formats}) == 1


def test_the_ledger_knows_the_draft_s_format() -> None:
    draft = opened(find("bundled", "draft"))
    taken = {kv: draft_bytes(draft, ModelOptions(draft_kv=kv), 1024) for kv in ("full", "int8", "int4")}
    assert taken["int4"] < taken["int8"] < taken["full"]
    beside = ModelOptions(drafts=("self", "bundled"), draft_kv="int4")
    assert draft_bytes(draft, beside, 1024) == draft_bytes(draft, ModelOptions(), 1024), "the view's, and no draft's own"


def test_a_draft_of_its_own_reads_the_upper_half_by_itself() -> None:
    drafter = open_session(ModelOptions(drafts=("self",), quant="int8", kv="int8"), Interrupt()).drafter
    assert isinstance(drafter, Grow)
    own = drafter.expanders[0]
    assert isinstance(own, Same)
    assert isinstance(own.view, UpperView)


@pytest.mark.parametrize(("given", "named", "hint"), [
    (("--kv", "int4", "--quant", "int8", "--draft", "self", "--draft-kv", "int4"), "int8 KV cache", "--kv int8"),
    (("--kv", "bf16", "--quant", "int8", "--draft", "self", "--draft-kv", "int4"), "int8 KV cache", "--kv int8"),
    (("--quant", "int8", "--draft", "self", "--draft-kv", "int4"), "no view", "retrieval"),
    (("--kv", "int8", "--quant", "int8", "--draft", "self", "--draft-kv", "int8"), "no draft", "retrieval"),
    (("--draft", "lookup", "--draft-kv", "int8"), "no model drafts", "a smaller model"),
    (("--kv", "int3"), "int3", "--help"),
    (("-ctk", "q8_0"), "-ctk", "--kv int8"),
])
def test_what_cannot_be_is_refused(specexec: Specexec, given: tuple[str, ...], named: str, hint: str) -> None:
    assert_refused(specexec("run", *given, "Once"), named, hint)


def test_a_folder_in_plain_weights_keeps_bf16_or_more_by_itself(specexec: Specexec) -> None:
    assert said(specexec, "--draft", "none")


# --- the ledger


def test_its_bytes_are_the_formats() -> None:
    of = footprint(LLAMA_70B, "nf4")
    whole = of.kv_bytes("bf16", 2**17, 0)
    assert KV_GROUP == GROUP
    for kv, share in (("int8", (1 + 4 / 128) / 2), ("int4", (0.5 + 4 / 128) / 2)):
        assert of.kv_bytes(kv, 2**17, 0) - of.kv_token * 2 * GROUP == share * whole
        assert of.kv_position(kv) == share * of.kv_token


def test_auto_is_bf16_unless_a_smaller_one_alone_fits() -> None:
    of, wanted = footprint(LLAMA_70B, "nf4"), Demand(2**16, 512)
    assert planned(of, 64 * GIB, wanted, "auto").kv == "bf16"
    enough = {kv: least(of, wanted, kv) for kv in ("bf16", "int8", "int4")}
    assert enough["int4"] < enough["int8"] < enough["bf16"]
    assert all(planned(of, ram, wanted, "auto").kv == kv for kv, ram in enough.items())
    with pytest.raises(TooLittleMemory) as caught:
        planned(of, GIB, wanted, "auto")
    assert caught.value.hint


def least(of: Footprint, wanted: Demand, kv: str) -> int:
    """Bytes of memory with which that format fits."""
    low, high = 0, 64 * GIB
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if fits(of, middle, wanted, kv) else (middle, high)
    return high


def fits(of: Footprint, ram: int, wanted: Demand, kv: str) -> bool:
    try:
        return bool(planned(of, ram, wanted, kv))
    except TooLittleMemory:
        return False


def test_a_smaller_one_is_said_once(specexec: Specexec, bundled_store: Path) -> None:
    of, wanted = sizes(Store(bundled_store)), Demand(1024, 2 * TREE)
    ram = least(of, wanted, "int8")
    assert ram < least(of, wanted, "bf16")
    given = ("-m", str(bundled_store), "--ram", str(ram), "--ctx-size", "1024", "--draft", "none", "-n", "3", "Once")
    code, _, err = specexec("run", *given)
    assert code == 0
    assert err.count("keys and values are int8") == 1
    code, _, err = specexec("run", "--kv", "bf16", *given)
    assert code == 3
    assert "Try: --ram" in err


@pytest.mark.parametrize("chunk", [0, 4 * TREE])
def test_the_ledger_is_what_it_takes(bundled_store: Path, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cli.engines.prompt_chunk", lambda *given: chunk)
    session = open_session(ModelOptions(str(bundled_store), ("none",), kv="int8", context=1024), Interrupt())
    session.target.sync(list(range(3, 903)))
    session.target.forward(DraftTree((5,)), unread)
    session.target.settle()
    told = plan(sizes(Store(bundled_store)), 2**40, Demand(1024, 2 * TREE, kv="int8", prompt=chunk + TREE)).ledger
    assert session.target.cache.nbytes <= next(entry.bytes for entry in told if entry.what == "KV cache")


def test_plan_knows_it(specexec: Specexec, bundled_store: Path) -> None:
    code, out, err = specexec("plan", "--help")
    assert (code, err) == (0, "")
    assert "--kv" in out
