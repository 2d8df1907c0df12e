"""Commands run inside the test's process, as the entry point runs them."""

import io
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from cli.engines import STORE_CONTEXT, Making
from cli.main import main
from cli.models import ModelOptions
from offload.plan import Placement
from offload.store import Store
from specexec.kernels.library import REFERENCE, instruction_set
from tests.cli import words
from tests.faults import environment

LAYOUT = "rowmajor" if instruction_set() == REFERENCE else "tile16"


class Ran(NamedTuple):
    code: int
    out: str
    err: str


Specexec = Callable[..., Ran]


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    """A small model, once opened, leaves this process one."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def specexec(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Specexec:
    """specexec("run", "Once", stdin=b"") -> exit code, stdout, stderr. Errors must say what to type next."""

    def run(*arguments: str, stdin: bytes = b"") -> Ran:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin), encoding="utf-8"))
        code = main(arguments)
        found = capsys.readouterr()
        words.check_all(found.err)
        if code not in (0, 130, 141) and "Error: " in found.err:
            words.check(found.err)
        return Ran(code, found.out, found.err)

    return run


@pytest.fixture(scope="session")
def bundled_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundled target as nf4, not to be changed."""
    path = tmp_path_factory.mktemp("stores") / "bundled-nf4"
    assert main(["convert", "bundled", "--out", str(path), "--layout", LAYOUT, "-q"]) == 0
    return path


def placement(path: Path, ram: int) -> Placement:
    """What run does with a store and so much memory, without a draft."""
    store = Store(path)
    context = min(STORE_CONTEXT, store.config["max_position_embeddings"])
    return Making(store, ModelOptions(ram=ram), 0, lambda: False).placement(store, context)


def least(path: Path) -> int:
    """Bytes of memory, below which a store is refused: all its layers stream."""
    all_stay, store = placement(path, 2**40), Store(path)
    sizes = [store.entry(name).nbytes for name in store.layers]
    return all_stay.bytes - (len(sizes) - 2) * max(sizes)


@pytest.fixture
def slow_store(bundled_store: Path) -> tuple[str, ...]:
    """A model that streams, with a draft that nothing hides behind."""
    streaming = ("-m", str(bundled_store), "--ram", str(least(bundled_store)))
    return (*streaming, "--draft", "none", "--temperature", "1", "--seed", "7")


@pytest.fixture
def slowly() -> dict[str, str]:
    """Of the reads of layers, six of which a pass takes."""
    return faults("slow", 40)


@pytest.fixture
def very_slowly() -> dict[str, str]:
    return faults("slow", 400)


def faults(kind: str, number: int) -> dict[str, str]:
    """The variables alone that environment() adds."""
    return {name: value for name, value in environment(kind, "layer-", number).items() if os.environ.get(name) != value}
