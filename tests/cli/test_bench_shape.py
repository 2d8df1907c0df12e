"""`specexec bench --shape` as a person runs it: a real process, a shape small enough for a test."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.kernels import need

SHAPE: dict[str, Any] = {
    "model_type": "llama", "hidden_size": 2048, "num_hidden_layers": 12, "num_attention_heads": 32, "num_key_value_heads": 8,
    "head_dim": 64, "intermediate_size": 8192, "vocab_size": 4096, "max_position_embeddings": 4096, "rms_norm_eps": 1e-5,
}
CLOSE = 0.25  # logits: two candidates that 8-bit rounding may exchange; it was seen to move one of this pair's by 0.11
RAM = 10**9  # bytes: of 0.4 GB of layers some must stream


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With a configuration to take the shape from: home/small/config.json."""
    made = tmp_path_factory.mktemp("home")
    (made / "small").mkdir()
    (made / "small" / "config.json").write_text(json.dumps(SHAPE), encoding="utf-8")
    return made


def bench(home: Path, *options: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "specexec", "bench", "--shape", str(home / "small" / "config.json"), *options]
    environment = os.environ | {"SPECEXEC_HOME": str(home)}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)


def test_nothing_is_made_that_nobody_agreed_to(home: Path) -> None:
    ran = bench(home, "--draft-shape", "none")
    assert ran.returncode == 1
    what, hint = ran.stderr.splitlines()
    assert "MB of disk" in what
    assert hint == "Try: the same command with --yes"
    assert not (home / "models").exists()


def test_a_streamed_shape_writes_its_shadows_text(home: Path) -> None:
    need()
    ran = bench(home, "--draft-shape", "none", "--ram", str(RAM), "--yes", "-n", "16", "--budget", "8")
    assert ran.returncode == 0, ran.stderr
    *table, last = ran.stdout.splitlines()
    found = json.loads(last)
    assert found["same_text"]
    assert found["shadow_tokens"] == found["tokens"] > 0
    assert 0 < found["layers_in_memory"] < SHAPE["num_hidden_layers"]
    assert found["peak_rss_bytes"] <= 1.05 * RAM + 600 * 10**6
    assert [one["n"] for one in found["passes"]] == [1, 32, 64]
    arms = found["arms"]
    assert all(arm["streamed_bytes"] == found["streamed_bytes"] for arm in arms.values())
    assert arms["bundled draft"]["tokens_per_pass"] > arms["plain"]["tokens_per_pass"] == 1
    assert any("its shadow's" in line for line in table)
    assert found["tokens"] / 2 < found["fp32_tokens"]
    assert all(margin < CLOSE for margin in found["parting_margins"])
    assert (found["fp32_tokens"] < found["tokens"]) == ("they part" in ran.stdout)


@pytest.mark.slow
def test_a_low_bit_copy_of_the_shape_drafts_for_it(home: Path) -> None:
    """It is made where it is missing. All layers stay here: of twelve, a copy spares less than the ring takes."""
    need()
    ran = bench(home, "--draft", "self:3bit", "--ram", "2GB", "--yes", "-n", "16", "--budget", "4")
    assert ran.returncode == 0, ran.stderr
    found = json.loads(ran.stdout.splitlines()[-1])
    assert found["same_text"]
    assert found["shadow_tokens"] == found["tokens"] > 0
    arms = found["arms"]
    assert list(arms) == ["plain", "self:3bit", "bundled draft"]
    assert arms["self:3bit"]["tokens_per_pass"] > arms["plain"]["tokens_per_pass"] == 1


@pytest.mark.slow
def test_with_16_bit_activations_that_is_the_text_of_fp32(home: Path) -> None:
    need()
    ran = bench(home, "--draft-shape", "none", "--ram", str(RAM), "--yes", "-n", "16", "--budget", "8", "--activations", "16")
    found = json.loads(ran.stdout.splitlines()[-1])
    assert found["same_text"]
    assert found["shadow_tokens"] == found["fp32_tokens"] == found["tokens"]
    assert found["parting_margins"] == []


def test_a_shape_that_is_not_there_is_told_with_those_that_are(home: Path) -> None:
    ran = bench(home, "--shape", "llama-9b")
    assert ran.returncode == 4
    what, hint = ran.stderr.splitlines()
    assert "llama-9b" in what
    assert "llama-3.1-70b" in hint
