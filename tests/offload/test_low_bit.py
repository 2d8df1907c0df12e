"""A low-bit copy of a store's layers: of the store's own weights, made at once or later, whole or not at all."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from offload.convert import convert
from offload.errors import DamagedFiles, Refused
from offload.folder import Folder
from offload.low_bit import with_copy
from offload.manifest import NAME, copy_name
from offload.piece import Piece
from offload.published import Goal, published
from offload.relaid import relaid
from offload.store import Store
from offload.verify import verify
from specexec.formats import Packed, dequantise, quantise
from tests.models import saved
from tests.offload.conversions import make, same
from tests.offload.test_convert_resumed import Died, dying
from tests.offload.test_folder import fails
from tests.offload.test_store import Nobody, flip

__all__ = ["dying"]
pytestmark = pytest.mark.usefixtures("small_steps")


def copied(out: Path, kind: str = "nf4", layout: str = "tile16") -> Store:
    """A tiny store that was made with a copy."""
    blueprint = published(Folder(saved("llama")), Goal(kind, layout, 3, False))
    assert convert(with_copy(blueprint, "3bit"), out, Nobody()) > 0
    return Store(out)


def add(store: Store) -> int:
    """A copy to a store that has none."""
    return convert(with_copy(relaid(store, None, store.layout), "3bit"), store.path, Nobody())


@pytest.mark.parametrize("kind", ["nf4", "int8"])
def test_a_copy_is_of_the_store_s_own_weights_beside_its_vectors(tmp_path: Path, kind: str) -> None:
    store = copied(tmp_path / "out", kind)
    for index, name in enumerate(store.layers):
        layer, copy = Piece.of(store, name).load(), Piece.of(store, copy_name(index)).load()
        assert layer.keys() == copy.keys()
        for stem, (rows, columns) in store.matrices.items():
            if stem == "lm_head":
                continue
            weight = dequantise(Packed(kind, "tile16", rows, columns, layer[f"{stem}.weight"], layer[f"{stem}.scales"]))
            wanted = quantise(weight, "3bit", "tile16")
            assert torch.equal(copy.pop(f"{stem}.weight"), wanted.codes)
            assert torch.equal(copy.pop(f"{stem}.scales"), wanted.scales)
        assert copy
        assert all(torch.equal(layer[vector], copy[vector]) for vector in copy)


def test_one_made_later_has_the_same_bytes(tmp_path: Path) -> None:
    wanted, plain = copied(tmp_path / "wanted"), make(saved("llama"), tmp_path / "out")
    before = {path.name: path.stat().st_ino for path in plain.path.iterdir() if path.name != NAME}
    assert add(plain) == sum(wanted.entry(copy_name(index)).nbytes for index in range(3))
    assert same(plain.path, wanted.path)
    assert all((plain.path / name).stat().st_ino == number for name, number in before.items())
    assert not (tmp_path / "out.partial").exists()
    assert add(Store(plain.path)) == 0


def test_the_published_folder_adds_it_too(tmp_path: Path) -> None:
    wanted, plain = copied(tmp_path / "wanted"), make(saved("llama"), tmp_path / "out")
    assert same(copied(plain.path).path, wanted.path)


def test_who_wants_no_copy_is_content_with_one(tmp_path: Path) -> None:
    store = copied(tmp_path / "out")
    assert convert(published(Folder(saved("llama")), Goal("nf4", "tile16", 3, False)), store.path, Nobody()) == 0
    assert same(store.path, copied(tmp_path / "wanted").path)


def test_a_store_without_a_copy_is_in_the_format_of_those_who_knew_none(tmp_path: Path) -> None:
    assert b'"specexec": 1,' in (make(saved("llama"), tmp_path / "plain").path / NAME).read_bytes()
    said = (copied(tmp_path / "copied").path / NAME).read_bytes()
    assert b'"specexec": 2,' in said
    assert b'"copy": "3bit"' in said


def test_a_copy_goes_along_into_another_layout_and_back(tmp_path: Path) -> None:
    store = copied(tmp_path / "a")
    convert(relaid(store, None, "rowmajor"), tmp_path / "b", Nobody())
    convert(relaid(Store(tmp_path / "b"), None, "tile16"), tmp_path / "c", Nobody())
    assert same(store.path, tmp_path / "c")


def test_death_between_any_two_steps_of_adding_one(dying: Callable[[int], None], tmp_path: Path) -> None:
    """The store is whole at every moment, with the copy or without."""
    wanted, plain = copied(tmp_path / "wanted"), make(saved("llama"), tmp_path / "plain").path
    died, steps, with_it = True, 0, 0
    while died:
        out = shutil.copytree(plain, tmp_path / "out")
        try:
            dying(steps)
            add(Store(out))
            died = False
        except Died:
            pass
        dying(10**9)
        with_it += verify(out, Nobody()).identity.copy is not None
        convert(with_copy(relaid(Store(out), None, "tile16"), "3bit"), out, Nobody())
        assert same(out, wanted.path)
        assert not (tmp_path / "out.partial").exists()
        shutil.rmtree(out)
        steps += 1
    assert steps > 20
    assert 1 < with_it < steps


def test_a_layer_that_is_damaged_is_not_copied(tmp_path: Path) -> None:
    store = make(saved("llama"), tmp_path / "out")
    flip(store.path / store.layers[1], 9000)
    assert store.layers[1] in fails(DamagedFiles, 5, lambda: add(store))
    assert Store(store.path).manifest.identity.copy is None


def test_a_damaged_copy_is_named(tmp_path: Path) -> None:
    store = copied(tmp_path / "out")
    flip(store.path / copy_name(1), 9000)
    assert copy_name(1) in fails(DamagedFiles, 5, lambda: verify(store.path, Nobody()))
    (store.path / copy_name(1)).unlink()
    assert copy_name(1) in fails(DamagedFiles, 5, lambda: Store(store.path))


def test_an_unfinished_conversion_without_one_is_another(tmp_path: Path) -> None:
    blueprint = published(Folder(saved("llama")), Goal("nf4", "tile16", 3, False))

    class Stop(Nobody):
        def advance(self, what: str, count: int) -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert(blueprint, tmp_path / "out", Stop())
    said = fails(Refused, 1, lambda: convert(with_copy(blueprint, "3bit"), tmp_path / "out", Nobody()))
    assert "unfinished conversion" in said
