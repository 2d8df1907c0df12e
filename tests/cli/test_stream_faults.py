"""Disks that fail while a model streams: two lines, no wrong token, nothing lost. Real processes, whose reads fail."""

import os
import shutil
from pathlib import Path

import pytest

from tests.cli.conftest import least
from tests.cli.process import Chat, run
from tests.faults import environment

LAYER, EMBEDDING = "layer-003.safetensors", "embedding.safetensors"
GREEDY = ("--temperature", "0", "-n", "12", "--draft", "none")


def streaming(store: Path) -> tuple[str, ...]:
    return (*GREEDY, "-m", str(store), "--ram", str(least(store)))


@pytest.fixture(scope="module")
def wanted(bundled_store: Path) -> str:
    return run("run", "Once upon a time", *streaming(bundled_store)).stdout


def two_lines(err: str, *words: str) -> None:
    first, second, rest = err.split("\n")
    assert (first[:7], second[:5], rest) == ("Error: ", "Try: ", "")
    assert all(word in first for word in words), first


def test_a_read_that_fails_in_an_answer_keeps_what_was_accepted(bundled_store: Path, wanted: str) -> None:
    ran = run("run", "Once upon a time", *streaming(bundled_store), env=environment("eio", LAYER, 5))
    two_lines(ran.stderr, str(bundled_store / LAYER), "byte 0", "Input/output error")
    assert ran.returncode == 1
    assert wanted.startswith(ran.stdout[:-1])
    assert ran.stdout.endswith("\n")
    assert len(ran.stdout) > 5


@pytest.mark.parametrize("name", ["head.safetensors", EMBEDDING])
def test_a_read_that_fails_at_once_is_told(bundled_store: Path, name: str) -> None:
    ran = run("run", "Once upon a time", *streaming(bundled_store), env=environment("eio", name))
    two_lines(ran.stderr, str(bundled_store / name), "byte 0")
    assert (ran.returncode, ran.stdout) == (1, "")


@pytest.mark.parametrize("name", [LAYER, EMBEDDING])
def test_a_chat_goes_on_when_the_disk_does(bundled_store: Path, name: str, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    chat = Chat(*streaming(bundled_store), env=environment("eio", name, only_while=broken))
    sound = Chat(*streaming(bundled_store))
    assert chat.turn("Once upon a time")[0] == sound.turn("Once upon a time")[0] != ""
    broken.touch()
    answer, told = chat.turn("Then Lily said")
    assert answer == ""
    two_lines(told, name, "byte")
    broken.unlink()
    assert chat.turn("Then Lily said")[0] == sound.turn("Then Lily said")[0] != ""
    assert (chat.leave(), sound.leave()) == ((0, ""), (0, ""))


@pytest.mark.parametrize(("name", "change"), [(LAYER, 4096), (EMBEDDING, -4096)], ids=["grows", "shrinks"])
def test_a_file_that_changes_its_length_in_use_ends_a_chat(
    bundled_store: Path, name: str, change: int, tmp_path: Path
) -> None:
    store = shutil.copytree(bundled_store, tmp_path / "store")
    chat = Chat(*streaming(store))
    assert chat.turn("Once upon a time")[0]
    os.truncate(store / name, (store / name).stat().st_size + change)
    answer, told = chat.turn("Then Lily said")
    assert answer == ""
    two_lines(told, name)
    assert chat.leave() == (5, "")


@pytest.mark.parametrize("kind", ["eintr", "short"])
def test_reads_that_come_in_pieces_are_whole(bundled_store: Path, wanted: str, kind: str) -> None:
    ran = run("run", "Once upon a time", *streaming(bundled_store), env=environment(kind, "safetensors"))
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, wanted, "")


@pytest.mark.parametrize("kind", ["direct", "refuse"])
def test_where_direct_reads_are_refused_plain_ones_serve_and_it_is_said_once(
    bundled_store: Path, wanted: str, kind: str
) -> None:
    given = ("run", "Once upon a time", *streaming(bundled_store))
    ran = run(*given, env=environment(kind, "safetensors"))
    assert (ran.returncode, ran.stdout, ran.stderr.count("\n")) == (0, wanted, 1)
    assert "page cache" in ran.stderr
    if kind == "direct":
        assert run(*given, "-q", env=environment(kind, "safetensors")).stderr == ""


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="needs a file system in memory")
def test_a_store_in_memory_writes_the_same(bundled_store: Path, wanted: str, tmp_path: Path) -> None:
    store = Path("/dev/shm") / tmp_path.name
    shutil.copytree(bundled_store, store)
    try:
        assert run("run", "Once upon a time", *streaming(store)).stdout == wanted
    finally:
        shutil.rmtree(store)


def test_an_answer_that_failed_is_no_object(bundled_store: Path) -> None:
    ran = run("run", "Once upon a time", "--json", *streaming(bundled_store), env=environment("eio", LAYER, 5))
    assert (ran.returncode, ran.stdout) == (1, "")
