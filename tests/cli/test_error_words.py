"""Every error names the next action, and every command and option that it names is there (words.py also looks at all that
the tests of commands get to see)."""

import ast
import importlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import pytest

from cli.spelling import FOREIGN
from offload.errors import OffloadError
from offload.store import Store
from specexec.errors import SpecexecError
from tests.cli import process, words
from tests.cli.conftest import Specexec
from tests.offload.test_store import flip

ROOT = Path(__file__).parents[2]
FILES = [path for package in ("specexec", "offload", "cli") for path in sorted((ROOT / package).rglob("*.py"))]


class Raised(NamedTuple):
    place: str
    hint: ast.expr | None
    file: ast.Module
    module: ModuleType


def errors() -> Iterator[Raised]:
    """Wherever an error of ours is made."""
    for path in FILES:
        text = path.read_text()
        if "Error" in text or "raise" in text:
            module = importlib.import_module(".".join(path.relative_to(ROOT).with_suffix("").parts))
            file = ast.parse(text)
            for node in ast.walk(file):
                if isinstance(node, ast.Call) and is_ours(node.func, module):
                    given = [word.value for word in node.keywords if word.arg == "hint"] or node.args[1:2]
                    yield Raised(f"{path.name}:{node.lineno}", given[0] if given else None, file, module)


def is_ours(function: ast.expr, module: ModuleType) -> bool:
    found = getattr(module, function.id, None) if isinstance(function, ast.Name) else None
    return isinstance(found, type) and issubclass(found, OffloadError | SpecexecError)


def texts(raised: Raised, expression: ast.expr) -> Iterator[str]:
    """Every text that the expression may be made of: of names, also those that are assigned to them."""
    for node in ast.walk(expression):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value
        elif isinstance(node, ast.Name) and isinstance(getattr(raised.module, node.id, None), str):
            yield getattr(raised.module, node.id)
        elif isinstance(node, ast.Name | ast.Attribute):
            name = node.id if isinstance(node, ast.Name) else node.attr
            for at in ast.walk(raised.file):
                if isinstance(at, ast.Assign) and any(isinstance(to, ast.Name) and to.id == name for to in at.targets):
                    yield from strings(at.value)


def strings(expression: ast.expr) -> Iterator[str]:
    return (of.value for of in ast.walk(expression) if isinstance(of, ast.Constant) and isinstance(of.value, str))


ALL = list(errors())


def test_there_is_something_to_look_at() -> None:
    assert len(ALL) > 60


@pytest.mark.parametrize("raised", ALL, ids=[raised.place for raised in ALL])
def test_an_error_names_what_to_do_and_what_it_names_is_there(raised: Raised) -> None:
    assert raised.hint is not None
    found = [text for text in texts(raised, raised.hint) if text.strip()]
    names = {node.id for node in ast.walk(raised.hint) if isinstance(node, ast.Name)}
    assert found or names  # what is handed on is looked at where it was made, and by words.py where a test meets it
    for text in found:
        assert not words.unknown(text), text


@pytest.mark.parametrize("spelling", FOREIGN)
def test_what_explains_a_foreign_option_can_be_typed(spelling: str) -> None:
    assert not words.unknown(FOREIGN[spelling])


def test_a_hint_that_names_nothing_real_is_found() -> None:
    assert words.unknown("specexec frobnicate --all-of-it, or --draft auto") == {"frobnicate", "--all-of-it"}
    for err in ("Error: x\n", "Error: x\nTry: \n", "Error: \nTry: y\n", "Error: x\nTry: specexec frobnicate\n"):
        with pytest.raises((AssertionError, ValueError)):
            words.check(err)


def test_another_vocabulary_names_the_drafts_that_fit(specexec: Specexec, shared: Path, bundled_store: Path, tmp_path: Path,
                                                      monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPECEXEC_HOME", str(tmp_path))
    shutil.copytree(bundled_store, tmp_path / "models" / "small-nf4")
    foreign = str(shared / "models" / "stories260k")
    ran = specexec("run", "x", "--draft", foreign)
    assert ran.code == 2
    assert 'Error: draft and target disagree at token 3 ("!" / "<0x00>").' in ran.err
    assert ran.err.endswith("Try: --draft auto, or one of: bundled\n")
    ran = specexec("run", "x", "-m", foreign, "--draft", "small")
    assert ran.err.endswith("Try: --draft auto, or --draft lookup\n")


@pytest.mark.parametrize(("count", "hint"), [
    (100, "Try: --ctx-size 512 (+0.7 MB), or a shorter prompt\n"),
    (1_100, "Try: a shorter prompt: 1,024 is all that this model was trained on\n"),
])
def test_a_prompt_that_is_too_long_names_the_context_that_would_do(specexec: Specexec, count: int, hint: str) -> None:
    ran = specexec("run", "--ctx-size", "64", "dog " * count)
    assert ran.code == 2
    assert "the context is 64." in ran.err
    assert ran.err.endswith(hint)


def test_the_context_that_is_named_does(specexec: Specexec) -> None:
    assert specexec("run", "--ctx-size", "512", "-n", "3", "dog " * 100).code == 0


def test_a_damaged_model_names_the_command_that_tells_and_the_one_that_removes(
    specexec: Specexec, bundled_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPECEXEC_HOME", str(tmp_path))
    store = shutil.copytree(bundled_store, tmp_path / "models" / "damaged")
    flip(store / "layer-002.safetensors", 9_000)
    ran = specexec("run", "x", "-m", "damaged")
    assert (ran.code, ran.err.splitlines()[1]) == (5, f"Try: specexec verify {store}")
    ran = specexec("verify", str(store), "-q")
    source = Store(store).manifest.identity.source
    assert (ran.code, ran.err.splitlines()[1]) == (5, f"Try: specexec rm {store}, then specexec convert {source} --to nf4")
    assert specexec("rm", str(store), "-y").code == 0


def test_a_traceback_is_for_those_who_ask() -> None:
    assert "Traceback" not in process.run("run", "x", "-m", "none-here").stderr
    ran = process.run("run", "x", "-m", "none-here", env={**os.environ, "SPECEXEC_DEBUG": "1"})
    assert "Traceback" in ran.stderr
    assert ran.stderr.splitlines()[-1].startswith("Try: ")
