"""Conversions of tiny models, and what they made."""

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from offload.convert import convert
from offload.folder import LAYERS, SINGLE, Folder
from offload.published import Goal, published
from offload.store import Store
from tests.models import saved
from tests.offload.test_store import Nobody

NORM = "model.norm.weight"
UP = f"{LAYERS}1.mlp.up_proj.weight"


class Noted(Nobody):
    """Keeps what was said."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.bytes = 0

    def advance(self, what: str, count: int) -> None:
        self.bytes += count

    def work(self, here: Mapping[str, int], total: int) -> None:
        if here:
            self.said.append(f"{sum(here.values())} of {total} already here, verified")

    def say(self, text: str) -> None:
        self.said.append(text)


def make(folder: Path, out: Path, kind: str = "nf4", layout: str | None = "tile16", tied: bool = False) -> Store:
    """The conversion of a tiny model."""
    assert convert(published(Folder(folder), Goal(kind, layout, 3, tied)), out, Nobody())
    return Store(out)


def same(a: Path, b: Path) -> bool:
    """Whether two folders hold the same files, byte for byte."""
    names = {path.name for path in a.iterdir()}
    return names == {p.name for p in b.iterdir()} and all((a / name).read_bytes() == (b / name).read_bytes() for name in names)


def edited(tmp_path: Path, edit: Callable[[dict[str, torch.Tensor]], object]) -> Path:
    folder = shutil.copytree(saved("llama"), tmp_path / "model")
    found = load_file(folder / SINGLE)
    edit(found)
    save_file({name: tensor.contiguous() for name, tensor in found.items()}, folder / SINGLE)
    return folder
