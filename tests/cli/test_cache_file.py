"""--cache: the same ids with and without it, nothing read twice, and a file that does not fit is never used."""

import json
import os
import re
from pathlib import Path

import pytest

from cli.build import ModelOptions, open_session
from cli.interrupt import Interrupt
from cli.session import AnswerOptions
from specexec.drafters.model import unread
from specexec.kernels.library import REFERENCE, instruction_set
from specexec.sampling import Sampling
from specexec.tree import DraftTree
from tests.cli.conftest import Ran, Specexec, least
from tests.cli.test_errors import assert_two_lines
from tests.offload.test_store import flip

ASKED = ("run", "-n", "30", "--json", "One day")
LONG = "Once upon a time there was a little dog who liked to play in the park with his red ball. " * 14
KERNELS = pytest.mark.skipif(instruction_set() == REFERENCE, reason="there are no compiled kernels")
MODELS = [
    pytest.param((), id="torch"),
    pytest.param(("--quant", "int8"), id="kernels", marks=KERNELS),
    pytest.param(("--quant", "int8", "--kv", "int8"), id="int8", marks=KERNELS),
    pytest.param(("--quant", "nf4", "--kv", "int4", "--activations", "8"), id="int4", marks=KERNELS),
]


@pytest.fixture
def book(tmp_path: Path) -> Path:
    (tmp_path / "book.txt").write_text(LONG)
    return tmp_path / "book.txt"


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    return tmp_path / "book.kv"


def ids(ran: Ran) -> list[int]:
    assert ran.code == 0, ran.err
    found: list[int] = json.loads(ran.out)["token_ids"]
    return found


@pytest.mark.parametrize("temperature", ["0", "1"])
@pytest.mark.parametrize("model", MODELS)
def test_the_answer_is_the_same(
    specexec: Specexec, book: Path, kept: Path, model: tuple[str, ...], temperature: str
) -> None:
    given = (*ASKED, *model, "-f", str(book), "--temperature", temperature, "--seed", "5")
    wanted = ids(specexec(*given))
    first, second = specexec(*given, "--cache", str(kept)), specexec(*given, "--cache", str(kept))
    assert ids(first) == ids(second) == wanted
    assert "book.kv will keep" in first.err
    assert "tokens come from book.kv" in second.err
    assert "keeping" not in second.err


def test_a_link_stays_one(specexec: Specexec, book: Path, kept: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(kept)
    ids(specexec(*ASKED, "-f", str(book), "--cache", str(tmp_path / "link")))
    assert (tmp_path / "link").is_symlink()
    assert kept.is_file()


@KERNELS
def test_a_streamed_target_reads_nothing_twice(specexec: Specexec, bundled_store: Path, book: Path, kept: Path) -> None:
    ram = str(least(bundled_store))
    given = (*ASKED, "-f", str(book), "--seed", "5", "-m", str(bundled_store), "--ram", ram, "--draft", "none")
    found = [specexec(*given, "--cache", str(kept)) for _ in range(2)]
    first, second = (json.loads(ran.out) for ran in found)
    assert first["token_ids"] == second["token_ids"] == ids(specexec(*given))
    layers = sum(path.stat().st_size for path in bundled_store.glob("layer-*"))
    assert second["streamed_bytes"] == layers * second["target_passes"]
    assert first["streamed_bytes"] > second["streamed_bytes"]


def test_only_what_the_question_begins_with_is_taken(specexec: Specexec, book: Path, kept: Path) -> None:
    given = (*ASKED, "--temperature", "0", "--cache", str(kept))
    ids(specexec(*given, "-f", str(book)))
    content = kept.read_bytes()
    book.write_text(LONG[:1000] + "But the cat was sad. ")
    ran = specexec(*given, "-f", str(book))
    alike = re.search(r"(\d+) tokens come from book.kv", ran.err)
    assert alike
    assert 200 < int(alike[1]) < 330
    assert ids(ran) == ids(specexec(*given[:-2], "-f", str(book)))
    assert kept.read_bytes() == content, "few tokens were read"
    book.write_text("Tim had a boat. " + LONG)
    other = specexec(*given, "-f", str(book))
    assert "come from" not in other.err
    assert kept.read_bytes() != content


@KERNELS
def test_a_chat_goes_on_from_it(specexec: Specexec, book: Path, kept: Path) -> None:
    given = ("chat", "--quant", "int8", "-n", "12", "--temperature", "1", "--seed", "4", "--no-save")
    asked = f"/file {book}\nOne day\nAnd then\n/undo\n/clear\n/file {book}\nSo\n".encode()
    plain = specexec(*given, stdin=asked)
    first, second = (specexec(*given, "--cache", str(kept), stdin=asked) for _ in range(2))
    assert first.out == second.out == plain.out
    assert (first.err.count("keeping"), first.err.count("come from")) == (1, 0)
    assert (second.err.count("keeping"), second.err.count("come from")) == (0, 1)


@KERNELS
def test_rows_that_are_on_disk_are_refused(specexec: Specexec, bundled_store: Path, kept: Path) -> None:
    ran = specexec("run", "Once", "-m", str(bundled_store), "--kv-place", "disk", "--ram", "1GB", "--cache", str(kept))
    assert (ran.code, ran.out) == (2, "")
    assert "elsewhere" in ran.err
    assert "Try: --kv-place device" in ran.err


def test_after_other_talk_it_is_read_again(specexec: Specexec, book: Path, kept: Path) -> None:
    given = ("chat", "-n", "3", "--temperature", "0", "--seed", "4", "--no-save", "--cache", str(kept))
    ran = specexec(*given, stdin=f"/file {book}\nOne day\n/clear\nOnce\n/clear\n/file {book}\nOne day\n".encode())
    assert (ran.err.count("keeping"), ran.err.count("come from")) == (1, 1)
    first, _, second = ran.out.splitlines()
    assert first == second


def test_ctrl_c_leaves_memory_and_file_as_they_were(kept: Path) -> None:
    session = open_session(ModelOptions(drafts=("none",), cache=kept), Interrupt())
    options, prompt = AnswerOptions(Sampling(0), 3, max_tokens=2), session.codec.encode_first(LONG)

    def answer() -> str | None:
        made = session.begin(prompt, options)
        list(session.keeping(session.stream(made, prompt, options, 0)))
        return made.answer.stop_reason

    assert session.kept
    session.kept._stop = lambda: True
    assert answer() == "max_tokens"
    assert not list(kept.parent.glob("*.kv*"))
    session.target.sync([])
    session.target.forward(DraftTree((5,)), unread)
    session.kept._stop = lambda: False
    assert answer() == "max_tokens"
    content = kept.read_bytes()
    session.target.sync([])
    session.target.forward(DraftTree((5,)), unread)
    session.kept._stop = lambda: True
    assert answer() == "interrupted"
    assert session.target.cache.length == 0
    assert kept.read_bytes() == content


# --- what is not used


def changed(kept: Path) -> None:
    flip(kept, kept.stat().st_size // 2)


def cut(kept: Path) -> None:
    kept.write_bytes(kept.read_bytes()[:-100])


def spoiled(kept: Path) -> None:
    flip(kept, 40)


@pytest.mark.parametrize(("spoil", "words"), [(changed, "checksum"), (cut, "checksum|too soon"), (spoiled, "first line")])
def test_a_damaged_file_is_not_used_and_written_anew(
    specexec: Specexec, book: Path, kept: Path, spoil: object, words: str
) -> None:
    given = (*ASKED, "--temperature", "0", "--cache", str(kept), "-f", str(book))
    wanted = ids(specexec(*given))
    content = kept.read_bytes()
    spoil(kept)  # type: ignore[operator]
    ran = specexec(*given)
    assert ids(ran) == wanted
    assert re.search(f"book.kv is not used and will be written anew: .*({words})", ran.err)
    assert kept.read_bytes() == content


@KERNELS
@pytest.mark.parametrize(("before", "after", "words"), [
    (("--quant", "int8"), (), "with quant int8"),
    (("--quant", "int8"), ("--quant", "nf4"), "with quant int8, and this is nf4"),
    (("--quant", "int8"), ("--quant", "int8", "--kv", "int8"), "with kv bf16, and this is int8"),
    (("--quant", "int8", "--activations", "16"), ("--quant", "int8", "--activations", "8"), "16-bit activations"),
    ((), ("--dtype", "bf16"), "torch.float32"),
    ((), ("-m", "./draft"), "with weights"),
    ((), ("--ctx-size", "300", "-n", "3"), "the context is 300"),
])
def test_one_that_was_made_otherwise_is_not_used(
    specexec: Specexec, book: Path, kept: Path, before: tuple[str, ...], after: tuple[str, ...], words: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from cli.find import find

    monkeypatch.chdir(find("bundled", "draft").parent)
    given = (*ASKED, "--draft", "none", "--temperature", "0", "--cache", str(kept))
    assert specexec(*given, *before, "-f", str(book)).code == 0
    if "--ctx-size" in after:
        book.write_text(LONG[:600])
    ran = specexec(*given, *after, "-f", str(book))
    assert ids(ran) == ids(specexec(*given[:-2], *after, "-f", str(book)))
    assert words in ran.err
    assert "come from" not in ran.err


@pytest.mark.parametrize(("place", "code", "words"), [
    ("notes.txt", 1, ("is no file of keys and values", "another file")), ("nowhere/x.kv", 4, ("no folder", "--cache FILE")),
    (".", 1, ("cannot be written", "--cache FILE")), ("pipe", 1, ("cannot be written", "--cache FILE")),
    ("/dev/null", 1, ("cannot be written", "--cache FILE")),
])
def test_a_place_where_it_cannot_be_is_refused_at_once(
    specexec: Specexec, tmp_path: Path, place: str, code: int, words: tuple[str, ...]
) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    os.mkfifo(tmp_path / "pipe")
    for command in (("run", "Once"), ("chat",)):
        ran = specexec(*command, "--cache", str(tmp_path / place))
        assert ran.code == code
        assert_two_lines(ran.err, *words)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_a_full_disk_is_told_and_the_answer_goes_on(specexec: Specexec, book: Path, disk: Path) -> None:
    given = (*ASKED, "--temperature", "0", "-f", str(book))
    ran = specexec(*given, "--cache", str(disk / "book.kv"))
    assert ids(ran) == ids(specexec(*given))
    assert re.search(r"^Error: the disk is full: .*book.kv is not kept.*\nTry: --cache FILE on another disk$", ran.err, re.M)
    assert list(disk.iterdir()) == []
