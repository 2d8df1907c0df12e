"""Conversions of tiny models: every tensor is what Quantised makes of it."""

import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from offload.convert import convert
from offload.folder import EMBEDDING, HEAD, LAYERS, SINGLE, Folder
from offload.form import Quantised
from offload.relaid import relaid
from offload.store import Store
from specexec.formats import Packed, relay
from tests.models import FAMILIES, save, saved
from tests.offload.conversions import NORM, make, same
from tests.offload.test_store import Nobody

CPU = torch.device("cpu")
pytestmark = pytest.mark.usefixtures("small_steps")


def tensors(store: Store) -> dict[str, torch.Tensor]:
    """All of a store's, by their published names, as the safetensors library reads them."""
    found: dict[str, torch.Tensor] = {}
    for name in (*store.layers, store.head, store.embedding):
        before = f"{LAYERS}{int(name[6:9])}." if name in store.layers else ""
        read = load_file(store.path / name)
        found |= {before + tensor: read[tensor] for tensor in store.spans(name)}
    return found


@pytest.mark.parametrize("layout", ["tile16", "rowmajor"])
@pytest.mark.parametrize("kind", ["nf4", "int8"])
@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_store_holds_what_quantised_makes(family: str, tied: bool, kind: str, layout: str, tmp_path: Path) -> None:
    folder = saved(family, tied)
    form = Quantised(kind, layout, tied, CPU, torch.float32)
    wanted: dict[str, torch.Tensor] = {}
    for name, tensor in Folder(folder).tensors():
        wanted |= form(name, tensor)
    found = tensors(make(folder, tmp_path / "out", kind, layout, tied))
    assert found.keys() == wanted.keys()
    assert all(found[name].dtype == wanted[name].dtype and found[name].equal(wanted[name]) for name in wanted)


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_bf16_store_holds_the_model_in_bf16(family: str, tied: bool, tmp_path: Path) -> None:
    store = make(saved(family, tied), tmp_path / "out", "bf16", None, tied)
    found, wanted = tensors(store), dict(Folder(saved(family, tied)).tensors())
    assert found.keys() == wanted.keys() - ({HEAD} if tied else set())
    assert all(found[name].equal(wanted[name].bfloat16()) for name in found)
    assert (store.layout, store.matrices) == (None, {})


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_embedding_stays_as_it_was_published(dtype: torch.dtype, tmp_path: Path) -> None:
    folder = shutil.copytree(saved("llama"), tmp_path / "model")
    save_file({name: x.to(dtype) for name, x in load_file(folder / SINGLE).items()}, folder / SINGLE)
    found = tensors(make(folder, tmp_path / "out"))
    assert found[EMBEDDING].dtype == dtype
    assert found[NORM].dtype == torch.float32
    assert found[EMBEDDING].equal(load_file(folder / SINGLE)[EMBEDDING])


@pytest.mark.parametrize("kind", ["nf4", "int8"])
@pytest.mark.parametrize("layouts", [("tile16", "rowmajor"), ("rowmajor", "tile16"), ("tile16", "tile16")], ids="-".join)
def test_a_store_laid_out_anew_is_the_one_converted_so(kind: str, layouts: tuple[str, str], tmp_path: Path) -> None:
    first = make(saved("qwen3"), tmp_path / "first", kind, layouts[0])
    make(saved("qwen3"), tmp_path / "wanted", kind, layouts[1])
    assert convert(relaid(first, None, layouts[1]), tmp_path / "again", Nobody())
    assert same(tmp_path / "again", tmp_path / "wanted")


def test_both_layouts_hold_the_same_codes(tmp_path: Path) -> None:
    stores = {layout: make(saved("llama"), tmp_path / layout, "nf4", layout) for layout in ("tile16", "rowmajor")}
    held = {layout: tensors(store) for layout, store in stores.items()}
    for name, (rows, columns) in stores["tile16"].matrices.items():
        stem = name if name == "lm_head" else f"{LAYERS}1.{name}"
        kind = "int8" if name == "lm_head" else "nf4"
        a, b = (Packed(kind, layout, rows, columns, held[layout][f"{stem}.weight"], held[layout][f"{stem}.scales"])
                for layout in stores)
        assert relay(a, "rowmajor").codes.equal(b.codes)
        assert relay(a, "rowmajor").scales.equal(b.scales)


def test_a_bf16_store_is_copied_whole(tmp_path: Path) -> None:
    store = make(saved("llama"), tmp_path / "out", "bf16", None)
    assert convert(relaid(store, "bf16", "tile16"), tmp_path / "again", Nobody())
    assert same(tmp_path / "out", tmp_path / "again")


def test_shards_and_links_give_the_same_files(tmp_path: Path) -> None:
    sharded = save("llama", tmp_path / "sharded", max_shard_size="20KB")
    for shard in list(sharded.glob("*.safetensors")):
        shard.rename(tmp_path / shard.name)
        shard.symlink_to(tmp_path / shard.name)
    assert len(Folder(sharded).shards()) > 2
    a, b = make(sharded, tmp_path / "a"), make(saved("llama"), tmp_path / "b")
    assert a.manifest.files == b.manifest.files


def test_configuration_and_tokenizer_are_kept_as_published(tmp_path: Path) -> None:
    folder = shutil.copytree(saved("llama"), tmp_path / "model")
    kept = {name: os.urandom(40) for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "merges.txt")}
    for name, content in kept.items():
        (folder / name).write_bytes(content)
    (folder / "training_args.bin").write_bytes(b"a pickle")
    out = make(folder, tmp_path / "out").path
    kept["config.json"] = (folder / "config.json").read_bytes()
    assert all((out / name).read_bytes() == content for name, content in kept.items())
    assert not (out / "training_args.bin").exists()


def test_a_snapshot_of_the_hub_is_known_by_repo_and_revision(tmp_path: Path) -> None:
    snapshot = tmp_path / "models--some--model-1b" / "snapshots" / "0123abcd"
    shutil.copytree(saved("llama"), snapshot)
    of = make(snapshot, tmp_path / "out").manifest.identity
    assert (of.source, of.revision) == ("some/model-1b", "0123abcd")
