"""What a command imports: a person waits for it before anything is done."""

import os
from pathlib import Path

import pytest

from tests.cli import process
from tests.cli.test_plan import measured

__all__ = ["measured"]


def imported(*arguments: str, code: int = 0, **variables: str) -> set[str]:
    """Modules that a process of its own imported."""
    ran = process.run(*arguments, env=os.environ | {"PYTHONPROFILEIMPORTTIME": "1"} | variables)
    assert ran.returncode == code, ran.stderr[-1000:]
    found = {line.rpartition("|")[2].strip() for line in ran.stderr.splitlines() if line.startswith("import time:")}
    assert "cli.main" in found
    return found


OTHERS = {"transformers", "accelerate", "sympy", "huggingface_hub", "jinja2"}


@pytest.mark.parametrize("model", ["bundled", "store"])
def test_an_answer_needs_no_transformers(model: str, bundled_store: Path) -> None:
    path = str(bundled_store) if model == "store" else model
    found = imported("run", "--raw", "-n", "4", "--ctx-size", "512", "-m", path, "Once")
    assert "specexec.engines.kernel_engine" in found
    assert not {name.partition(".")[0] for name in found} & OTHERS
    assert not found & {"torch._dynamo", "torch._inductor", "torch.distributed.tensor"}


@pytest.mark.parametrize("arguments", [("--help",), ("run", "--help"), ("completion", "bash"), ("config",)], ids=" ".join)
def test_what_only_says_something_needs_no_torch(arguments: tuple[str, ...]) -> None:
    assert "torch" not in imported(*arguments)


def test_what_is_here_is_listed_without_torch(bundled_store: Path) -> None:
    home = bundled_store.parent / "home"
    (home / "models").mkdir(parents=True)
    (home / "models" / "kept").symlink_to(bundled_store)
    assert "torch" not in imported("list", SPECEXEC_HOME=str(home))


TOLD_AT_ONCE = (("run", "-m", "nowhere", "Once"), ("chat", "-m", "nowhere"), ("show", "nowhere"), ("pull", "a/b", "--offline"))


@pytest.mark.parametrize("arguments", TOLD_AT_ONCE, ids=" ".join)
def test_nobody_waits_for_torch_to_hear_a_no(arguments: tuple[str, ...]) -> None:
    assert "torch" not in imported(*arguments, code=4)


@pytest.mark.parametrize("arguments", [("--version",), ("plan", "bundled")], ids=" ".join)
def test_what_runs_no_model_needs_no_transformers(arguments: tuple[str, ...], measured: Path) -> None:
    assert "transformers" not in imported(*arguments, SPECEXEC_HOME=str(measured))
