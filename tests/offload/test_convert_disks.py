"""Conversions on disks that fail, fill up, or may not be written."""

import errno
import os
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from offload import convert as conversion
from offload.convert import convert
from offload.errors import DamagedFiles, OffloadError
from offload.folder import SINGLE, Folder
from offload.header import published_header
from offload.manifest import is_store
from offload.parts import Stored
from offload.published import Goal, published
from offload.verify import verify
from offload.writing import NoRoom
from tests.models import saved
from tests.offload.conversions import UP, edited, make, same
from tests.offload.test_folder import fails
from tests.offload.test_store import Nobody

pytestmark = pytest.mark.usefixtures("small_steps")


def test_a_source_cut_short_while_it_is_read_is_named(tmp_path: Path) -> None:
    folder = edited(tmp_path, lambda x: None)
    spans = published_header(folder / SINGLE)
    os.truncate(folder / SINGLE, spans[UP].end - 5)
    tensor = Stored(folder / SINGLE, UP, spans[UP])
    said = fails(DamagedFiles, 5, lambda: tensor.rows(0, tensor.span.shape[0]))
    assert said == f"{folder / SINGLE} ends at byte {spans[UP].end - 5:,}."


def test_a_disk_that_fails_names_file_and_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = edited(tmp_path, lambda x: None)
    blueprint = published(Folder(folder), Goal("nf4", "tile16", 3, False))
    real = Stored.rows

    def rows(self: Stored, start: int, stop: int) -> torch.Tensor:
        if self.name == UP:
            monkeypatch.setattr(Path, "open", broken)
        return real(self, start, stop)

    def broken(path: Path, *_: object, **__: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))

    monkeypatch.setattr(Stored, "rows", rows)
    with pytest.raises(OffloadError, match=r"model.safetensors failed at byte .*Input/output error") as caught:
        convert(blueprint, tmp_path / "out", Nobody())
    assert caught.value.exit_code == 1


def test_too_small_a_disk_is_said_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversion.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**6, 10**6, 5000))
    assert "0.1 MB is free" in fails(NoRoom, 3, lambda: make(saved("llama"), tmp_path / "out"))
    assert not list((tmp_path / "out.partial" / "store").iterdir())


def test_a_disk_that_fills_up_loses_nothing(disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted, out = make(saved("llama"), tmp_path / "wanted").path, disk / "out"
    assert "is free" in fails(NoRoom, 3, lambda: make(saved("llama"), out))
    with monkeypatch.context() as lying:
        lying.setattr(conversion, "_check_room", lambda *_: None)
        assert "nothing is lost" in fails(NoRoom, 3, lambda: make(saved("llama"), out))
    assert not out.exists()
    assert not is_store(disk / "out.partial" / "store")
    kept = [path.name for path in (disk / "out.partial" / "store").iterdir()]
    assert "layer-000.safetensors" in kept
    assert not [name for name in kept if name.endswith(".part")]
    subprocess.run(["mount", "-o", "remount,size=8m", str(disk)], check=True)
    assert same(make(saved("llama"), out).path, wanted)
    verify(out, Nobody())


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    assert "Permission denied" in fails(OffloadError, 1, lambda: make(saved("llama"), tmp_path / "out"))


def test_a_file_where_a_folder_should_be_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert "file" in fails(OffloadError, 1, lambda: make(saved("llama"), tmp_path / "file" / "out"))
