"""Fixtures of GGUF files. What needs llama.cpp is skipped without the extra `gguf`: make test-gguf installs it."""

from pathlib import Path

import pytest

F32, Q8 = "stories260k-f32.gguf", "stories260k-q8_0.gguf"


@pytest.fixture(scope="session")
def stories(shared: Path) -> Path:
    """The folder of a published model, and of two GGUF files of it."""
    return shared / "models" / "stories260k"


@pytest.fixture(scope="session")
def llamacpp() -> None:
    pytest.importorskip("llama_cpp", reason="llama.cpp is not installed: make test-gguf")
