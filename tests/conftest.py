"""Fixtures every test shares. Threads must wait passively, and that is read when torch is first imported."""

import gc
import os
import signal
import subprocess
import threading

os.environ.setdefault("OMP_WAIT_POLICY", "passive")
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # in the background of a shell; children would never hear of Ctrl-C
    signal.signal(signal.SIGINT, signal.default_int_handler)
os.environ["SPECEXEC_CONFIG"] = os.devnull  # nobody's own settings

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import settings

from tests.kernels import PLAIN, SETS, plainly, using

gc.set_threshold(100_000)  # as in the command itself: most objects are of libraries, and stay
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # read when a kernel is first imported
settings.register_profile("specexec", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("specexec")


LONG = {f"test_{name}.py" for name in (
    "bench_shape", "chat_terminal", "exact", "expand", "fuzz", "kernel_engine", "low_bit", "run", "stream_interrupts",
    "stream_memory", "verify")}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The files that take longest first, those of this folder among them, so that both workers end at the same time."""
    items.sort(key=lambda item: item.path.parent != Path(__file__).parent and item.path.name not in LONG)


def pytest_collection_finish() -> None:
    gc.freeze()


THREADS = torch.get_num_threads()


@pytest.fixture(scope="module", autouse=True)
def threads_again() -> Iterator[None]:
    """A small model, once opened, leaves a process one; what was measured is known by how many there were."""
    yield
    torch.set_num_threads(THREADS)


SHARED = Path(os.environ.get("SPECEXEC_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))


@pytest.fixture(scope="session", autouse=True)
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Chats are saved: not among those of the person who runs the tests."""
    os.environ["XDG_STATE_HOME"] = str(tmp_path_factory.mktemp("state"))
    return Path(os.environ["XDG_STATE_HOME"]) / "specexec"


@pytest.fixture
def disk(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A file system of 64 KB, or of the size that is its parameter."""
    path = tmp_path / "disk"
    path.mkdir()
    size = f"size={getattr(request, 'param', '64k')}"
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", size, "tmpfs", str(path)], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"a small file system cannot be mounted here: {mounted.stderr.strip()}")
    yield path
    subprocess.run(["umount", str(path)], check=True)


@pytest.fixture
def at_exit(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a command leaves to the end of its process is done at the end of the test."""
    left: list[Callable[[], None]] = []
    monkeypatch.setattr("cli.engines.atexit", SimpleNamespace(register=left.append))
    yield
    for end in left:
        end()


@pytest.fixture(autouse=True)
def no_reader_stays() -> Iterator[None]:
    """A thread that reads ahead holds its buffers."""
    before = set(threading.enumerate())
    yield
    assert not [thread for thread in set(threading.enumerate()) - before if thread.name == "reader"]


@pytest.fixture(scope="module", params=[PLAIN, *SETS])
def way(request: pytest.FixtureRequest) -> Iterator[str]:
    """By no kernel at all, and by those of every instruction set."""
    with plainly() if request.param == PLAIN else using(request.param):
        yield request.param


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of shared test data; tests that need it are skipped without it, except in CI, where they fail."""
    if not SHARED.is_dir():
        missing = f"the shared test data is not at {SHARED}; set SPECEXEC_TEST_DATA"
        if os.environ.get("CI", "").lower() in ("1", "true"):
            pytest.fail(missing)
        pytest.skip(missing)
    return SHARED
