"""predicted_tokens_per_pass comes true: of the passes by prediction each twenty within two standard errors."""

import sys
from pathlib import Path

import pytest

from tests.benchmarks.buckets import buckets
from tests.benchmarks.calibration import load, measure, options


@pytest.mark.parametrize("passes", [100, pytest.param(200, marks=pytest.mark.slow)])
@pytest.mark.parametrize("temperature", [1.0, 0.0])
def test_predictions_come_true(temperature: float, passes: int, shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts = str(shared / "prompts" / "stories_dev.jsonl")
    arguments = ["--passes", str(passes), "--warmup", str(passes // 2), "--threads", "1", "--expanders", "draft", "lookup"]
    monkeypatch.setattr(sys, "argv", ["calibration", "--prompts", prompts, *arguments])
    chosen = options()
    pair, openings = load(chosen)
    record = measure(pair, openings, temperature, chosen)
    found = buckets(record.predicted, record.realised, range(passes), passes // 20)
    assert [bucket.count for bucket in found] == [20] * (passes // 20)
    assert max(abs(bucket.z) for bucket in found) <= 2.0
