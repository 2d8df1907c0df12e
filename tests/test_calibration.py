"""predicted_tokens_per_pass comes true: in each tenth of the passes by prediction, within two standard errors."""

import sys
from pathlib import Path

import pytest

from tests.benchmarks.calibration import load, measure, options


@pytest.mark.parametrize("temperature", [1.0, 0.0])
def test_predictions_come_true(temperature: float, shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts = str(shared / "prompts" / "stories_dev.jsonl")
    arguments = ["--passes", "200", "--warmup", "100", "--threads", "1", "--expanders", "draft", "lookup"]
    monkeypatch.setattr(sys, "argv", ["calibration", "--prompts", prompts, *arguments])
    chosen = options()
    pair, openings = load(chosen)
    found = measure(pair, openings, temperature, chosen).passes()
    assert len(found) == 10
    assert sum(bucket.count for bucket in found) == 200
    assert max(abs(bucket.z) for bucket in found) <= 2.0
