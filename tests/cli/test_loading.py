"""What is told of a model while it is loaded."""

import io
import sys
from pathlib import Path

import pytest
import torch

from cli.loading import loading
from offload.folder import Folder, ResidentWeights
from offload.form import Plain
from offload.plan import Placement
from offload.store import Store
from offload.streamed import open_streamer, opened_bytes
from tests.models import save


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


def shown(seconds: float, monkeypatch: pytest.MonkeyPatch, quiet: bool = False, **streams: io.StringIO) -> str:
    """What somebody at a terminal sees of four gigabytes. streams: that are none."""
    now, screen = [0.0], Terminal()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setattr("cli.loading.time.monotonic", lambda: now[0])
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, streams.get(name, screen))
    with loading("/models/Some-8B-nf4", 4 * 10**9, quiet) as told:
        for _ in range(8):
            now[0] += seconds / 8
            told(5 * 10**8)
    return "".join(file.getvalue() for file in (screen, *streams.values()))


def test_a_second_passes_before_anything_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    assert shown(1.0, monkeypatch) == ""


def test_after_that_there_is_a_bar_whose_last_line_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [line for line in shown(4.0, monkeypatch).split("\r") if line.strip()]
    assert lines[0] == "Some-8B-nf4  38% ▕████      ▏ 1.5/4.0 GB  1000 MB/s  2s  loading"
    assert "Some-8B-nf4: 4.0 GB loaded in 4s" in lines[-1]
    assert lines[-1].endswith("\n")


def test_nothing_is_said_where_nobody_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    assert shown(4.0, monkeypatch, quiet=True) == ""
    assert shown(4.0, monkeypatch, stderr=io.StringIO()) == ""
    assert shown(4.0, monkeypatch, stdout=io.StringIO()) == ""


@pytest.mark.parametrize("pinned", [6, 2, 0])
def test_a_store_tells_of_all_that_it_reads(pinned: int, bundled_store: Path) -> None:
    store, told, placed = Store(bundled_store), list[int](), Placement(pinned, 2, 0, ())
    open_streamer(store, placed, told.append).close()
    assert sum(told) == opened_bytes(store, placed)
    assert len(told) >= pinned + 2


def test_a_folder_tells_of_all_its_weights(tmp_path: Path) -> None:
    folder, told = Folder(save("qwen2", tmp_path / "in shards", max_shard_size="40KB")), list[int]()
    form = Plain(torch.device("cpu"), torch.float32)
    ResidentWeights(folder, folder.config["num_hidden_layers"], False, form, told=told.append)
    assert len(folder.shards()) > 1
    assert len(told) > 30
    assert 0.8 < sum(told) / folder.nbytes <= 1  # a header is no weight
