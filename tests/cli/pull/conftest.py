"""A hub of a test's own, for commands of the test's process."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from huggingface_hub import constants

from cli.main import main
from tests.hub import BUNDLED, Hub, sharded


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    hub = Hub(tmp_path_factory.mktemp("hub"))
    yield hub
    hub.close()


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds that were waited, or would have been."""
    waited: list[float] = []
    monkeypatch.setattr("offload.patience.time", SimpleNamespace(sleep=waited.append))
    return waited


@pytest.fixture
def hub(server: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, waits: list[float]) -> Hub:
    """The only hub that commands of this process know."""
    server.reset()
    monkeypatch.setenv("SPECEXEC_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr(constants, "ENDPOINT", server.url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", server.url + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    return server


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundled target in four files, layers across their borders."""
    return sharded(BUNDLED / "target", tmp_path_factory.mktemp("models") / "Tiny-Stories-1B", 4)


@pytest.fixture(scope="session")
def wanted(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `convert` makes of the same folder."""
    out = tmp_path_factory.mktemp("wanted") / "nf4"
    assert main(["convert", str(folder), "--out", str(out), "-q"]) == 0
    return out


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "home" / "models" / "Tiny-Stories-1B-nf4"
