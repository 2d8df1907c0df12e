"""Which draft a model gets that nobody chose one for."""

import shutil
from pathlib import Path

import pytest

from cli import fit
from cli.build import ModelOptions, resolve
from cli.find import find


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SPECEXEC_HOME", str(tmp_path))
    (tmp_path / "models").mkdir()
    return tmp_path / "models"


def test_the_smallest_that_fits_drafts(bundled_store: Path, models: Path) -> None:
    shutil.copytree(bundled_store, models / "large")
    assert resolve(ModelOptions("large")) == ["bundled", "lookup"]
    assert resolve(ModelOptions("large", ("auto", "random"))) == ["bundled", "lookup", "random"]


def test_nothing_small_nothing_drafts(models: Path) -> None:
    draft = str(find("bundled", "draft"))
    assert list(fit.drafts(Path(draft))) == []
    assert resolve(ModelOptions(draft)) == ["lookup"]


def test_a_draft_that_takes_much_memory_must_be_asked_for(bundled_store: Path, models: Path) -> None:
    assert resolve(ModelOptions(str(bundled_store), ram=2**20)) == ["lookup"]
    assert resolve(ModelOptions(str(bundled_store), ("bundled",), ram=2**20)) == ["bundled"]


def test_other_tokens_never_draft(models: Path, shared: Path) -> None:
    other = next(path.parent for path in sorted((shared / "models").rglob("config.json")))
    assert "bundled" not in resolve(ModelOptions(str(other)))
