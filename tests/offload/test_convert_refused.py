"""What no conversion takes, reads or writes over, and in which words it says so."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from offload.convert import convert
from offload.errors import DamagedFiles, OffloadError, Refused
from offload.folder import HEAD, LAYERS, SINGLE, Folder
from offload.lock import locked
from offload.manifest import NAME, is_store
from offload.published import Goal, published
from offload.relaid import relaid
from tests.models import save, saved
from tests.offload.conversions import NORM, UP, edited, make
from tests.offload.test_folder import fails
from tests.offload.test_store import Nobody, flip

pytestmark = pytest.mark.usefixtures("small_steps")


WRONG: dict[str, tuple[type[OffloadError], Callable[[dict[str, torch.Tensor]], object], str]] = {
    "no layer": (DamagedFiles, lambda x: [x.pop(name) for name in list(x) if f"{LAYERS}1." in name], f"{LAYERS}1."),
    "no last layer": (DamagedFiles, lambda x: [x.pop(name) for name in list(x) if f"{LAYERS}2." in name], f"{LAYERS}2."),
    "no matrix": (DamagedFiles, lambda x: x.pop(UP), UP),
    "no head": (DamagedFiles, lambda x: x.pop(HEAD), HEAD),
    "no norm": (DamagedFiles, lambda x: x.pop(NORM), NORM),
    "other shape": (DamagedFiles, lambda x: x.update({UP: x[UP][:-1]}), UP),
    "a vector": (DamagedFiles, lambda x: x.update({UP: x[UP][0]}), UP),
    "empty": (DamagedFiles, lambda x: x.update({UP: x[UP][:0]}), UP),
    "quantised": (Refused, lambda x: x.update({UP: x[UP].to(torch.int8)}), UP),
    "fp8": (Refused, lambda x: x.update({UP: x[UP].to(torch.float8_e4m3fn)}), UP),
    "unknown": (Refused, lambda x: x.update({f"{LAYERS}1.mlp.experts.0.weight": torch.ones(2)}), "experts"),
    "norm's bias": (Refused, lambda x: x.update({f"{LAYERS}1.input_layernorm.bias": torch.ones(48)}), "layernorm.bias"),
    "unknown outside": (Refused, lambda x: x.update({"score.weight": torch.ones(2)}), "score.weight"),
    "no number": (Refused, lambda x: x.update({f"{LAYERS}x.mlp": torch.ones(2)}), "layers.x"),
    "nan": (Refused, lambda x: x[UP].view(-1)[7].fill_(torch.nan), UP),
    "infinite norm": (Refused, lambda x: x[NORM][3].fill_(torch.inf), NORM),
}


@pytest.mark.parametrize("how", WRONG)
def test_a_model_that_is_not_whole_is_refused_by_name(how: str, tmp_path: Path) -> None:
    error, edit, word = WRONG[how]
    folder = edited(tmp_path, edit)
    assert word in fails(error, error.exit_code, lambda: make(folder, tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_layers_beyond_the_configured_ones_and_old_tables_are_left_out(tmp_path: Path) -> None:
    more = edited(tmp_path, lambda x: x.update({f"{LAYERS}3.eh_proj.weight": torch.ones(2, 2),
                                                f"{LAYERS}0.self_attn.rotary_emb.inv_freq": torch.ones(6)}))
    assert make(more, tmp_path / "a").manifest.files == make(saved("llama"), tmp_path / "b").manifest.files


@pytest.mark.parametrize("name", ["../elsewhere.safetensors", "/etc/passwd", "below/x.safetensors", ".."])
def test_an_index_that_leaves_its_folder_is_refused(name: str, tmp_path: Path) -> None:
    folder = save("llama", tmp_path / "sharded", max_shard_size="20KB")
    shutil.copy(saved("llama") / SINGLE, tmp_path / "elsewhere.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {NORM: name}}))
    fails(DamagedFiles, 5, lambda: make(folder, tmp_path / "out"))


def test_a_pipe_in_place_of_weights_is_not_waited_for(tmp_path: Path) -> None:
    folder = edited(tmp_path, lambda x: None)
    (folder / "tokenizer.json").unlink(missing_ok=True)
    os.mkfifo(folder / "tokenizer.json")
    assert "tokenizer.json" in fails(DamagedFiles, 5, lambda: make(folder, tmp_path / "out"))


def test_another_quantisation_of_a_store_is_refused(tmp_path: Path) -> None:
    store = make(saved("llama"), tmp_path / "out")
    with pytest.raises(Refused, match="nf4") as caught:
        relaid(store, "int8", "tile16")
    assert caught.value.hint == f"specexec convert {saved('llama').resolve()} --to int8"


def test_a_damaged_store_is_not_laid_out_anew(tmp_path: Path) -> None:
    store = make(saved("llama"), tmp_path / "out")
    flip(store.path / "layer-001.safetensors", -3000)
    said = fails(DamagedFiles, 5, lambda: convert(relaid(store, None, "rowmajor"), tmp_path / "again", Nobody()))
    assert "layer-001.safetensors" in said
    assert not (tmp_path / "again").exists()


@pytest.mark.parametrize("fill", ["file", "folder", "other", "damaged"])
def test_what_is_there_is_never_written_over(fill: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    if fill in ("other", "damaged"):
        make(saved("llama"), out, "int8")
    if fill == "damaged":
        flip(out / NAME, 5)
    if fill == "folder":
        out.mkdir()
    if fill in ("file", "folder"):
        (out / "notes.txt" if fill == "folder" else out).write_text("mine")
    said = fails(Refused, 1, lambda: make(saved("llama"), out))
    assert str(out) in said
    assert not (tmp_path / "out.partial").exists()


def test_an_empty_folder_is_filled(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    make(saved("llama"), tmp_path / "out")


def test_a_link_to_a_folder_is_followed(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "disk")
    make(saved("llama"), tmp_path / "out")
    assert is_store(tmp_path / "disk")


def test_the_same_conversion_twice_is_there_already(tmp_path: Path) -> None:
    store = make(saved("llama"), tmp_path / "out")
    before = store.path.stat().st_mtime_ns
    assert not convert(published(Folder(saved("llama")), Goal("nf4", "tile16", 3, False)), store.path, Nobody())
    assert store.path.stat().st_mtime_ns == before


def test_a_second_conversion_at_once_is_refused(tmp_path: Path) -> None:
    with locked(tmp_path / "out"):
        assert f"another process ({os.getpid()}: specexec" in fails(Refused, 1, lambda: make(saved("llama"), tmp_path / "out"))
    make(saved("llama"), tmp_path / "out")


def test_a_partial_folder_of_someone_elses_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "out.partial").mkdir()
    (tmp_path / "out.partial" / "thesis.txt").write_text("mine")
    assert "thesis.txt" in fails(Refused, 1, lambda: make(saved("llama"), tmp_path / "out"))
    assert (tmp_path / "out.partial" / "thesis.txt").read_text() == "mine"


def test_a_partial_folder_that_is_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out.partial").symlink_to(tmp_path / "elsewhere")
    fails(Refused, 1, lambda: make(saved("llama"), tmp_path / "out"))
    assert not list((tmp_path / "elsewhere").iterdir())
