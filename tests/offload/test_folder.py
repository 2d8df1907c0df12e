"""Model folders: what they hold, and what is said of each that cannot be used."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from offload.errors import DamagedFiles, NotHere, OffloadError, Refused
from offload.folder import INDEX, SINGLE, Folder, ResidentWeights, stored
from offload.form import Plain
from specexec.errors import Damaged
from tests.models import chain, engine, read, save, saved, weights

CPU = torch.device("cpu")


def fails(error: type[OffloadError], exit_code: int, act: Callable[[], object]) -> str:
    """What is said when `act` fails, as it must."""
    with pytest.raises(error) as caught:
        act()
    assert type(caught.value) is error
    assert caught.value.exit_code == exit_code
    assert caught.value.hint
    return str(caught.value)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A whole model, free to be broken."""
    return shutil.copytree(saved("llama"), tmp_path / "model")


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    return save("llama", tmp_path / "sharded", max_shard_size="20KB")


def change(folder: Path, edit: Callable[[dict[str, torch.Tensor]], object]) -> None:
    """Rewrites the folder's tensors."""
    tensors = load_file(folder / SINGLE)
    edit(tensors)
    save_file(tensors, folder / SINGLE)


def reindex(folder: Path, names: object) -> None:
    """Gives the index of a sharded folder another weight_map."""
    (folder / INDEX).write_text(json.dumps({"weight_map": names}))


# --- folders and configurations


def test_a_folder_tells_its_configuration_and_how_it_generates(folder: Path) -> None:
    assert Folder(folder).config["model_type"] == "llama"
    (folder / "generation_config.json").write_text('{"temperature": 0.6}')
    assert Folder(folder).generation == {"temperature": 0.6}
    (folder / "generation_config.json").unlink()
    assert Folder(folder).generation == {}


@pytest.mark.parametrize("name", ["nowhere", "model/config.json", "model/nowhere"])
def test_no_such_folder(folder: Path, name: str) -> None:
    path = folder.parent / name
    assert str(path) in fails(NotHere, 4, lambda: Folder(path))


def test_an_empty_folder(tmp_path: Path) -> None:
    assert "empty" in fails(DamagedFiles, 5, lambda: Folder(tmp_path))


def test_a_folder_without_config(folder: Path) -> None:
    (folder / "config.json").unlink()
    assert "config.json" in fails(DamagedFiles, 5, lambda: Folder(folder))


@pytest.mark.parametrize("name", ["config.json", "generation_config.json"])
@pytest.mark.parametrize("content", [b"", b'{"model_type": ', b"[1, 2]", b"null", b"\xff\xfe{}", b"[" * 100_000],
                         ids=["empty", "cut", "list", "null", "not utf-8", "deep"])
def test_broken_json_is_named(folder: Path, name: str, content: bytes) -> None:
    (folder / name).write_bytes(content)
    assert name in fails(DamagedFiles, 5, lambda: Folder(folder))


def test_a_folder_in_place_of_config(folder: Path) -> None:
    (folder / "config.json").unlink()
    (folder / "config.json").mkdir()
    assert "config.json" in fails(DamagedFiles, 5, lambda: Folder(folder))


# --- safetensors, and nothing else


class Trap:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.mark,)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "consolidated.00.pth", "model.pt", "last.ckpt", "weights.pkl"])
@pytest.mark.parametrize("use", [weights, lambda path: stored(Folder(path))], ids=["load", "headers"])
def test_a_pickle_is_refused_and_never_opened(folder: Path, name: str, use: Callable[[Path], object]) -> None:
    (folder / SINGLE).unlink()
    torch.save(Trap(folder.parent / "ran"), folder / name)
    assert name in fails(Refused, 1, lambda: use(folder))
    assert not (folder.parent / "ran").exists()


def test_a_pickle_beside_safetensors_is_ignored(folder: Path) -> None:
    torch.save(Trap(folder.parent / "ran"), folder / "pytorch_model.bin")
    weights(folder)
    assert not (folder.parent / "ran").exists()


def test_a_folder_without_weights(folder: Path) -> None:
    (folder / SINGLE).unlink()
    assert "safetensors" in fails(DamagedFiles, 5, lambda: weights(folder))


@pytest.mark.parametrize("kept", [0, 4, 8, 100, 5000, -1])
@pytest.mark.parametrize("use", [weights, lambda path: stored(Folder(path))], ids=["load", "headers"])
def test_a_file_that_was_cut_short_is_named(folder: Path, kept: int, use: Callable[[Path], object]) -> None:
    file = folder / SINGLE
    file.write_bytes(file.read_bytes()[:kept])
    assert SINGLE in fails(DamagedFiles, 5, lambda: use(folder))


@pytest.mark.parametrize("at", [0, 7, 8, 20])
def test_a_header_with_other_bytes_is_named(folder: Path, at: int) -> None:
    file = folder / SINGLE
    content = bytearray(file.read_bytes())
    content[at] ^= 0xFF
    file.write_bytes(content)
    assert SINGLE in fails(DamagedFiles, 5, lambda: weights(folder))


# --- shards


def test_every_shard_is_read_once(sharded: Path) -> None:
    shards = Folder(sharded).shards()
    assert len(shards) == len(set(shards)) == len(list(sharded.glob("*.safetensors")))
    whole = load_file(saved("llama") / SINGLE)
    found = dict(Folder(sharded).tensors())
    assert found.keys() == whole.keys()
    assert all(torch.equal(found[name], whole[name]) for name in whole)


def test_shards_may_be_links_to_elsewhere(sharded: Path) -> None:
    blobs = sharded.parent / "blobs"
    blobs.mkdir()
    for shard in list(sharded.glob("*.safetensors")):
        shard.rename(blobs / shard.name)
        shard.symlink_to(blobs / shard.name)
    assert weights(sharded).nbytes == weights(saved("llama")).nbytes


def test_a_missing_shard_is_named(sharded: Path) -> None:
    shard = Folder(sharded).shards()[1]
    shard.unlink()
    assert shard.name in fails(DamagedFiles, 5, lambda: weights(sharded))


@pytest.mark.parametrize("name", ["../elsewhere.safetensors", "below/elsewhere.safetensors", "..", "", "."])
def test_an_index_that_leaves_its_folder_is_refused(sharded: Path, name: str) -> None:
    (sharded / "below").mkdir()
    for place in (sharded.parent, sharded / "below"):
        shutil.copy(saved("llama") / SINGLE, place / "elsewhere.safetensors")
    reindex(sharded, {"model.norm.weight": name})
    fails(DamagedFiles, 5, lambda: weights(sharded))


def test_an_index_with_an_absolute_path_is_refused(sharded: Path) -> None:
    elsewhere = saved("llama") / SINGLE
    reindex(sharded, {"model.norm.weight": str(elsewhere)})
    assert str(elsewhere) in fails(DamagedFiles, 5, lambda: weights(sharded))


@pytest.mark.parametrize("names", [None, [], 5, {"model.norm.weight": 5}, {"model.norm.weight": ["a"]}, {}], ids=str)
def test_an_index_that_is_none_is_damaged(sharded: Path, names: object) -> None:
    reindex(sharded, names)
    fails(DamagedFiles, 5, lambda: Folder(sharded).shards())


def test_a_broken_index_is_named(sharded: Path) -> None:
    (sharded / INDEX).write_text("{")
    assert INDEX in fails(DamagedFiles, 5, lambda: weights(sharded))


# --- tensors


@pytest.mark.parametrize("name", ["model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"])
def test_a_missing_tensor_outside_the_layers_is_named(folder: Path, name: str) -> None:
    change(folder, lambda tensors: tensors.pop(name))
    assert name in fails(DamagedFiles, 5, lambda: weights(folder))


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_a_missing_layer_is_named(folder: Path, layer: int) -> None:
    def drop(tensors: dict[str, torch.Tensor]) -> None:
        for name in [name for name in tensors if name.startswith(f"model.layers.{layer}.")]:
            del tensors[name]

    change(folder, drop)
    assert f"model.layers.{layer}" in fails(DamagedFiles, 5, lambda: weights(folder))


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_the_layer_that_lacks_a_tensor_is_named(folder: Path, layer: int) -> None:
    change(folder, lambda tensors: tensors.pop(f"model.layers.{layer}.mlp.up_proj.weight"))
    assert f"model.layers.{layer}" in fails(DamagedFiles, 5, lambda: weights(folder))


def test_a_tensor_that_every_layer_lacks_is_damage(folder: Path) -> None:
    def drop(tensors: dict[str, torch.Tensor]) -> None:
        for layer in range(3):
            del tensors[f"model.layers.{layer}.mlp.up_proj.weight"]

    change(folder, drop)
    with pytest.raises((DamagedFiles, Damaged), match=r"up_proj") as caught:
        read(engine(folder), chain(1))
    assert caught.value.exit_code == 5
    assert caught.value.hint


def test_a_bias_that_every_layer_lacks_is_damage(tmp_path: Path) -> None:
    folder = shutil.copytree(saved("qwen2"), tmp_path / "unbiased")

    def drop(tensors: dict[str, torch.Tensor]) -> None:
        for layer in range(3):
            del tensors[f"model.layers.{layer}.self_attn.q_proj.bias"]

    change(folder, drop)
    with pytest.raises(Damaged, match=r"q_proj\.bias"):
        read(engine(folder), chain(1))


@pytest.mark.parametrize("name", ["model.layers.1.mlp.up_proj.weight", "model.norm.weight", "model.embed_tokens.weight"])
def test_a_tensor_of_another_shape_is_named(folder: Path, name: str) -> None:
    change(folder, lambda tensors: tensors.update({name: tensors[name][:-1].clone()}))
    with pytest.raises(Damaged, match=name.rpartition("layers.1.")[2].removeprefix("model.")) as caught:
        read(engine(folder), chain(1))
    assert caught.value.exit_code == 5
    assert caught.value.hint


@pytest.mark.parametrize("name", ["model.layers.1.mlp.extra.weight", "model.extra.weight"])
def test_a_tensor_the_model_does_not_know_is_damage(folder: Path, name: str) -> None:
    change(folder, lambda tensors: tensors.update({name: torch.ones(3)}))
    with pytest.raises((DamagedFiles, Damaged), match=r"extra") as caught:
        read(engine(folder), chain(1))
    assert caught.value.exit_code == 5
    assert caught.value.hint


@pytest.mark.parametrize("name", ["model.rotary_emb.inv_freq", "model.layers.1.self_attn.rotary_emb.inv_freq"])
def test_rotary_tables_that_old_models_carry_are_ignored(folder: Path, name: str) -> None:
    wanted = read(engine(folder), chain(1, 2))
    change(folder, lambda tensors: tensors.update({name: torch.ones(6)}))
    assert torch.equal(read(engine(folder), chain(1, 2)), wanted)


def test_the_head_of_a_tied_model_is_its_embedding(tmp_path: Path) -> None:
    folder = shutil.copytree(saved("llama", True), tmp_path / "tied")
    wanted = read(engine(folder), chain(1, 2))
    change(folder, lambda tensors: tensors.update({"lm_head.weight": torch.zeros(80, 48)}))
    assert "lm_head.weight" not in weights(folder).resident()
    assert torch.equal(read(engine(folder), chain(1, 2)), wanted)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_weights_are_kept_in_the_dtype_asked_for(dtype: torch.dtype) -> None:
    found = weights(saved("llama"), dtype)
    assert {tensor.dtype for tensor in found.resident().values()} == {dtype}
    with found.layer(2) as layer:
        assert {tensor.dtype for tensor in layer.values()} == {dtype}
    assert found.nbytes == stored(Folder(saved("llama")))[0] * dtype.itemsize


def test_a_layers_tensors_are_named_within_the_layer() -> None:
    whole = load_file(saved("qwen2") / SINGLE)
    with weights(saved("qwen2")).layer(1) as layer:
        assert {f"model.layers.1.{name}" for name in layer} == {n for n in whole if n.startswith("model.layers.1.")}
        assert torch.equal(layer["self_attn.q_proj.bias"], whole["model.layers.1.self_attn.q_proj.bias"])


def test_layers_beyond_those_of_the_configuration_are_left_out() -> None:
    assert ResidentWeights(Folder(saved("llama")), 2, False, Plain(CPU, torch.float32)).nbytes < weights(saved("llama")).nbytes


# --- what is stored


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_parameters_and_dtype_as_stored(folder: Path, dtype: torch.dtype) -> None:
    whole = load_file(folder / SINGLE)
    change(folder, lambda tensors: tensors.update({name: tensor.to(dtype) for name, tensor in tensors.items()}))
    assert stored(Folder(folder)) == (sum(tensor.numel() for tensor in whole.values()), dtype)


def test_the_dtype_is_that_of_most_parameters(folder: Path) -> None:
    change(folder, lambda tensors: tensors.update({
        name: tensor.bfloat16() for name, tensor in tensors.items() if "norm" not in name}))
    assert stored(Folder(folder))[1] is torch.bfloat16


def test_shards_are_counted_together(sharded: Path) -> None:
    assert stored(Folder(sharded)) == stored(Folder(saved("llama")))


def test_weights_that_are_all_integers_are_refused(folder: Path) -> None:
    change(folder, lambda tensors: tensors.update({name: tensor.to(torch.int8) for name, tensor in tensors.items()}))
    assert "floating" in fails(OffloadError, 1, lambda: stored(Folder(folder)))
