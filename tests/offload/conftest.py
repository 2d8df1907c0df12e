"""Fixtures of conversions."""

import os

import pytest


@pytest.fixture
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiny matrices are converted in several steps too, and no disk is waited for."""
    monkeypatch.setattr("offload.parts.CHUNK", 1500)
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
