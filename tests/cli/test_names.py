"""What a model may be called, and what is said of a name that means none, or several."""

from pathlib import Path

import pytest

from cli.find import find
from cli.name import Name, parse
from offload import manifest
from offload.errors import NotHere, Refused
from specexec.errors import WrongUsage
from tests.cli.shelf import shelve

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SPECEXEC_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    shelve(tmp_path, "Qwen2.5-72B-Instruct-nf4", "Qwen/Qwen2.5-72B-Instruct", revision=COMMIT)
    shelve(tmp_path, "Qwen2.5-7B-Instruct-nf4", "Qwen/Qwen2.5-7B-Instruct")
    shelve(tmp_path, "Qwen2.5-7B-Instruct-int8", "Qwen/Qwen2.5-7B-Instruct", "int8")
    shelve(tmp_path, "tiny", "/somewhere/Tiny-Llama", "bf16")
    return tmp_path


@pytest.mark.parametrize(("text", "found"), [
    ("Qwen2.5-72B-Instruct-nf4", "Qwen2.5-72B-Instruct-nf4"),
    ("qwen2.5-72b-instruct-NF4", "Qwen2.5-72B-Instruct-nf4"),
    ("Qwen/Qwen2.5-72B-Instruct", "Qwen2.5-72B-Instruct-nf4"),
    ("https://huggingface.co/Qwen/Qwen2.5-72B-Instruct", "Qwen2.5-72B-Instruct-nf4"),
    ("hf://Qwen/Qwen2.5-72B-Instruct", "Qwen2.5-72B-Instruct-nf4"),
    (f"Qwen/Qwen2.5-72B-Instruct@{COMMIT}", "Qwen2.5-72B-Instruct-nf4"),
    ("Qwen/Qwen2.5-72B-Instruct@0123456:nf4", "Qwen2.5-72B-Instruct-nf4"),
    ("Qwen/Qwen2.5-72B-Instruct@main", "Qwen2.5-72B-Instruct-nf4"),
    ("72b", "Qwen2.5-72B-Instruct-nf4"),
    ("72", "Qwen2.5-72B-Instruct-nf4"),
    ("Qwen/Qwen2.5-7B-Instruct:int8", "Qwen2.5-7B-Instruct-int8"),
    ("7b:nf4", "Qwen2.5-7B-Instruct-nf4"),
    ("int8", "Qwen2.5-7B-Instruct-int8"),
    ("Tiny-Llama", "tiny"),
    ("TINY", "tiny"),
])
def test_a_name_or_a_part_that_means_one_model_is_enough(here: Path, text: str, found: str) -> None:
    assert find(text, "target") == here / "models" / found


def test_a_word_of_the_name_comes_before_any_part_of_it(here: Path) -> None:
    shelve(here, "Mixed-172B-nf4", "other/Mixed-172B")
    assert find("72B", "target").name == "Qwen2.5-72B-Instruct-nf4"


@pytest.mark.parametrize("text", ["7b", "qwen", "Qwen/Qwen2.5-7B-Instruct"])
def test_several_models_are_listed(here: Path, text: str) -> None:
    with pytest.raises(WrongUsage, match="several models") as caught:
        find(text, "target")
    assert "Qwen2.5-7B-Instruct-int8, " in caught.value.hint
    assert "Qwen2.5-7B-Instruct-nf4" in caught.value.hint


@pytest.mark.parametrize(("text", "hint"), [
    ("Qwen/Qwen2.5-32B-Instruct", "Qwen2.5-72B-Instruct-nf4, or specexec pull Qwen/Qwen2.5-32B-Instruct"),
    ("Qwen/Qwen2.5-72B-Instruct@ffffffff", "Qwen2.5-72B-Instruct-nf4, or specexec pull Qwen/Qwen2.5-72B-Instruct@ffffffff"),
    ("Qwen/Qwen2.5-72B-Instruct:int8", "Qwen2.5-72B-Instruct-nf4, or specexec pull Qwen/Qwen2.5-72B-Instruct --to int8"),
    ("mistralai/Mistral-Large", "specexec pull mistralai/Mistral-Large"),
    ("mistral", "specexec pull ORG/NAME"),
    ("models", "./models, the folder, or specexec pull ORG/NAME"),
])
def test_what_is_not_here_names_the_nearest_and_where_to_get_it(here: Path, text: str, hint: str) -> None:
    with pytest.raises(NotHere, match="here") as caught:
        find(text, "target")
    assert caught.value.hint == hint


@pytest.mark.parametrize(("text", "hint"), [
    ("Qwen/Qwen2.5-72B-Instruct@q4_k_m", "Qwen/Qwen2.5-72B-Instruct:nf4"),
    ("Qwen/Qwen2.5-72B-Instruct:q4_k_m", "Qwen/Qwen2.5-72B-Instruct:nf4"),
    ("a/b@q8_0", "a/b:int8"),
    ("a/b:f16", "a/b:bf16"),
    ("a/b:", "specexec list"),
    ("@main", "specexec list"),
])
def test_what_no_model_can_be_called_is_answered_with_what_one_can(here: Path, text: str, hint: str) -> None:
    with pytest.raises(WrongUsage) as caught:
        find(text, "target")
    assert caught.value.hint.startswith(hint)


def test_names_are_read_and_written_alike() -> None:
    for text in ("a/b", "a/b@main", "a/b:nf4", "a/b@main:int8", "72b"):
        assert str(parse(text)) == text
    assert parse("hf://a/b@v1:nf4") == Name("a/b", "v1", "nf4")


def test_a_path_is_a_path_whatever_is_here(here: Path) -> None:
    assert find("./tiny", "target") == Path("tiny")
    assert find("~/x", "target") == Path.home() / "x"


def test_no_name_leads_out_of_the_store(here: Path) -> None:
    shelve(here / "outside", "hidden", "x/hidden")
    with pytest.raises(NotHere):
        find("models/../outside/models/hidden", "target")


def test_a_gguf_file_is_a_model_and_another_file_is_none(here: Path) -> None:
    for name in ("model.gguf", "model.bin", "models/kept.gguf"):
        (here / name).write_bytes(b"GGUF")
    assert find("./model.gguf", "target") == find("model.gguf", "target") == Path("model.gguf")
    assert find("kept.gguf", "target") == here / "models" / "kept.gguf"
    with pytest.raises(Refused, match="or GGUF files"):
        find("./model.bin", "target")


def test_a_damaged_model_is_found_by_its_whole_name_alone(here: Path) -> None:
    damaged = here / "models" / "damaged"
    damaged.mkdir()
    (damaged / manifest.NAME).write_text("{")
    assert find("damaged", "target") == damaged
    with pytest.raises(NotHere):
        find("damage", "target")
