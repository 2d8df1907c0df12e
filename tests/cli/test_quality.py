"""`specexec bench --quality`: perplexity by format of keys and values, of a text that is named or that the model writes."""

import json
import math
from pathlib import Path

import pytest
import torch

from cli.quality import quantised_share, windows
from specexec.kernels.hierarchical import GROUP
from specexec.perplexity import nats
from tests import quantised
from tests.cli.conftest import Specexec
from tests.kernels import need
from tests.models import VOCABULARY, chain, read, save

STORY = "Once upon a time there was a little cat who lived in a big house. " * 30


@pytest.fixture(scope="module", autouse=True)
def _compiled() -> None:
    need()


def test_nats_are_those_of_one_pass_over_all(tmp_path: Path) -> None:
    """In passes of 7 tokens too, to the last bit: with the kernels no logit depends on the tree."""
    engine = quantised.engine(save("llama", tmp_path), "int8", 16, largest_tree=7)
    ids = [(7 * at * at + 3) % VOCABULARY for at in range(40)]
    engine.sync([])
    rows = read(engine, chain(*ids[:-1])).double()
    wanted = rows.logsumexp(-1) - rows[torch.arange(39), torch.tensor(ids[1:])]
    assert torch.allclose(nats(engine, ids), wanted, atol=1e-12)


def test_windows_hold_all_of_a_text() -> None:
    ids = list(range(100, 125))
    assert windows(ids, [1], 10) == [[1, *ids[:9]], [1, *ids[9:18]], [1, *ids[18:]]]
    assert windows(ids[:9], [], 3) == [ids[:3], ids[3:6], ids[6:9]]
    assert windows(ids[:10], [], 9) == [ids[:9]]  # one token alone is no text
    assert windows([], [1], 10) == []


def test_the_quantised_share_counts_what_tokens_see() -> None:
    assert quantised_share([list(range(GROUP + 1))]) == 0
    assert quantised_share([list(range(GROUP + 2))]) == pytest.approx(GROUP / sum(range(1, GROUP + 2)))


def test_a_text_of_ones_own(specexec: Specexec, tmp_path: Path) -> None:
    text = tmp_path / "story.txt"
    text.write_text(STORY, encoding="utf-8")
    code, out, err = specexec("bench", "--quality", "-f", str(text), "--ctx-size", "300", "--activations", "16", "--json")
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert found["window"] == 300
    assert 0.3 < found["quantised_share"] < 0.6
    bf16, int8, int4 = found["cells"]
    assert [bf16["kv"], int8["kv"], int4["kv"]] == ["bf16", "int8", "int4"]
    assert int8["over_bf16"] == pytest.approx(int8["perplexity"] / bf16["perplexity"] - 1)
    assert 0 < abs(int8["over_bf16"]) < 0.002  # another number, and no worse than is allowed
    assert int8["uncertain"] < int4["uncertain"] / 4  # tokens differ by more, whichever way it comes out
    assert bf16["token_bytes"] > int8["token_bytes"] > int4["token_bytes"]


def test_a_store_is_judged_as_it_streams(specexec: Specexec, bundled_store: Path, tmp_path: Path) -> None:
    text = tmp_path / "story.txt"
    text.write_text(STORY, encoding="utf-8")
    code, out, _ = specexec("bench", "--quality", "-m", str(bundled_store), "-f", str(text), "--ctx-size", "280")
    assert code == 0
    *shown, last = out.splitlines()
    found = json.loads(last)
    assert found["layers"] == "nf4"
    assert "| int8 |" in "\n".join(shown)
    assert math.isfinite(found["cells"][0]["perplexity"])


def test_without_a_text_the_model_writes_one(specexec: Specexec, tmp_path: Path) -> None:
    one = tmp_path / "one.jsonl"
    one.write_text('{"turns": ["Once upon a time"]}\n', encoding="utf-8")
    code, out, err = specexec("bench", "--quality", "--prompts", str(one), "--ctx-size", "200", "--json")
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert "wrote itself" in found["text"]
    assert found["tokens"] == 199


@pytest.mark.parametrize(("given", "code", "named"), [
    (("--quality", "-f", "./no-such-file"), 2, "no-such-file"),
    (("--quality", "--shape", "llama-3.1-8b"), 2, "--shape"),
    (("--quality", "--kv", "int8"), 2, "--kv int8"),
    (("-f", "./no-such-file"), 2, "--quality"),
    (("--quality", "-m", "no-such-model"), 4, "no-such-model"),
])
def test_what_cannot_be_asked(specexec: Specexec, given: tuple[str, ...], code: int, named: str) -> None:
    ran = specexec("bench", *given)
    assert ran.code == code
    assert named in ran.err
    assert len(ran.err.splitlines()) == 2
