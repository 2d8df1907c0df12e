"""--ram is kept: what a process takes at its peak, against the ledger; less of it streams more and writes the same."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cli.engines import Making
from cli.models import ModelOptions
from offload.footprint import footprint
from offload.store import Store
from tests.cli.conftest import LAYOUT, least, placement
from tests.cli.process import run
from tests.kernels import need
from tests.offload.test_convert_large import write_model

SHAPE: dict[str, Any] = {"num_hidden_layers": 12, "hidden_size": 1024, "intermediate_size": 4096, "vocab_size": 2048}
BUNDLED = Path(__file__).parents[2] / "specexec" / "bundled" / "target"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A random model of 200 MB in int8, with the bundled tokenizer."""
    from cli.main import main

    folder = tmp_path_factory.mktemp("models")
    source = write_model(folder / "source", *(SHAPE[name] for name in SHAPE))
    config = json.loads((BUNDLED / "config.json").read_text())
    config |= SHAPE | {"num_attention_heads": 16, "num_key_value_heads": 16, "head_dim": 64, "tie_word_embeddings": False,
                       "max_position_embeddings": 4096}
    (source / "config.json").write_text(json.dumps(config))
    shutil.copy(BUNDLED / "tokenizer.json", source)
    assert main(["convert", str(source), "--to", "int8", "--out", str(folder / "store"), "--layout", LAYOUT, "-q"]) == 0
    shutil.rmtree(source)
    yield folder / "store"
    shutil.rmtree(folder / "store")


def answer(store: Path, ram: int, *options: str, repeats: int = 200) -> dict[str, Any]:
    asked = ("--json", "-n", "8", "--seed", "7", "-m", str(store), "--ram", str(ram), *options)
    ran = run("run", "Once upon a time " * repeats, *asked)
    assert ran.returncode == 0, ran.stderr
    found: dict[str, Any] = json.loads(ran.stdout)
    return found


def test_less_memory_is_kept_to_and_writes_the_same(store: Path) -> None:
    bottom, layer = least(store), footprint(Store(store).config, "int8").layer
    found = {ram: answer(store, ram) for ram in (bottom, bottom + 6 * layer, bottom + 20 * layer)}
    for ram, made in found.items():
        ledger = placement(store, ram).bytes
        print(f"--ram {ram:,}: ledger {ledger:,}, peak {made['peak_rss_bytes']:,}, streamed {made['streamed_bytes']:,}")
        assert ledger <= ram
        assert made["peak_rss_bytes"] <= 1.05 * ledger
        assert made["token_ids"] == found[bottom]["token_ids"]
    streamed = [made["streamed_bytes"] / made["target_passes"] for made in found.values()]
    assert streamed[0] > streamed[1] > streamed[2] == 0
    peaks = [made["peak_rss_bytes"] for made in found.values()]
    assert peaks == sorted(peaks)


def test_just_below_the_least_is_refused_by_the_number_that_works(store: Path) -> None:
    ran = run("run", "Once", "-n", "2", "--kv", "bf16", "-m", str(store), "--ram", str(least(store) - 1))
    assert (ran.returncode, ran.stdout, ran.stderr.count("\n")) == (3, "", 2)
    named = ran.stderr.split("Try: --ram ")[1].split(",")[0]
    assert run("run", "Once", "-n", "2", "--kv", "bf16", "-m", str(store), "--ram", named).returncode == 0


def test_keys_and_values_on_disk_leave_that_room_to_layers(store: Path) -> None:
    """In memory that holds them or half of the layers."""
    ram, disk = least(store), ("--kv", "bf16", "--kv-place", "disk")
    need()
    found, wanted = answer(store, ram, *disk, repeats=120), answer(store, ram, "--kv", "bf16", repeats=120)
    options = ModelOptions(ram=ram, kv_place="disk")
    placed = Making(Store(store), options, 0, lambda: False).placement(Store(store), 4096)
    assert found["token_ids"] == wanted["token_ids"]
    assert found["streamed_bytes"] < wanted["streamed_bytes"] / 2
    assert placed.bytes <= ram
    assert found["peak_rss_bytes"] <= 1.05 * placed.bytes
