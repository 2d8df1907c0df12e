"""The machine as it is measured: rates of the real disk and processor, kept in a file, and nothing left behind."""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch

from offload import bus, disk
from offload.disk import LARGE, Sample, read_rate
from offload.errors import OffloadError
from offload.machine import COUNTS, Arithmetic, Machine, free_memory, measure, products
from offload.measured import Measured
from offload.neighbours import Neighbours
from specexec.engines import rate
from specexec.kernels.library import load

READ = 2**22  # bytes: enough to be measured, not enough to be waited for
BOUND = 60.0  # seconds that a small measurement may take on a busy machine


def small(rows: int = 64, columns: int = 128, seconds: float = 0.0) -> Arithmetic:
    """Real products of matrices so small that they take milliseconds."""
    layout = "tile16" if load() else "rowmajor"

    def rates(counts: Sequence[int]) -> Mapping[int, float]:
        return rate.rates("nf4", layout, 16, counts, rows, columns, 2**16, seconds)

    return Arithmetic(rate.name("nf4", layout, 16), rates)


class Counted:
    """Measures as `small` does, and notes how often it was asked."""

    def __init__(self) -> None:
        self.times = 0

    def __call__(self, counts: Sequence[int]) -> Mapping[int, float]:
        self.times += 1
        return small().measure(counts)


def test_a_machine_has_memory_a_disk_and_arithmetic(tmp_path: Path) -> None:
    began = time.monotonic()
    found = measure(Measured(tmp_path / "home" / "machine.json"), Sample(tmp_path, read=READ), small(512, 1024, 0.05))
    assert time.monotonic() - began < BOUND
    assert 0 < found.ram <= psutil.virtual_memory().total
    assert 1e5 < found.disk < 1e12
    assert list(found.products) == list(COUNTS)
    assert all(rate > 0 for rate in found.products.values())
    assert found.products[1] > found.products[512], "one token is multiplied with more weights a second than 512 are"
    assert (found.vram is None) == (found.bus is None) == (not torch.cuda.is_available())
    assert [path.name for path in tmp_path.iterdir()] == ["home"], "files that were written to be read are gone"


def test_what_was_measured_is_kept(tmp_path: Path) -> None:
    kept, counted, said = tmp_path / "machine.json", Counted(), []
    arithmetic = Arithmetic("counted", counted)

    def again(redo: bool = False) -> Machine:
        return measure(Measured(kept, redo, said.append), Sample(tmp_path, read=READ), arithmetic)

    first = again()
    assert counted.times == 1
    assert [text.split()[1] for text in said if re.match("measuring (disk|products)", text)] == ["disk", "products"]
    second = again()
    assert counted.times == 1
    assert (second.disk, second.products) == (first.disk, first.products)
    again(redo=True)
    assert counted.times == 2
    products(Measured(kept), Arithmetic("other", counted))
    assert counted.times == 3
    assert len([what for what in json.loads(kept.read_text()) if not what.startswith("bus")]) == 3


@pytest.mark.parametrize("content", ["", "{", "[]", "\0" * 100, '{"disk": 1}', "[" * 100_000])
def test_a_damaged_file_is_measured_again(tmp_path: Path, content: str) -> None:
    kept = tmp_path / "machine.json"
    kept.write_text(content)
    assert products(Measured(kept), small()).keys() == set(COUNTS)
    assert products(Measured(kept), Arithmetic(small().name, unasked)).keys() == set(COUNTS)


@pytest.mark.parametrize("value", [0, -1, "fast", None, True, float("nan"), float("inf"), {}])
def test_a_rate_that_cannot_be_is_measured_again(tmp_path: Path, value: object) -> None:
    kept, counted = tmp_path / "machine.json", Counted()
    products(Measured(kept), Arithmetic("counted", counted))
    found = json.loads(kept.read_text())
    next(iter(found.values()))["8"] = value
    kept.write_text(json.dumps(found))
    assert products(Measured(kept), Arithmetic("counted", counted))[8] > 0
    assert counted.times == 2


def test_two_who_measure_keep_what_both_found(tmp_path: Path) -> None:
    one, other = (Measured(tmp_path / "machine.json") for _ in range(2))
    for cache, name in ((one, "one"), (other, "other"), (one, "third")):
        cache.once(name, ("x",), lambda: {"x": 1.0})
    assert json.loads((tmp_path / "machine.json").read_text()).keys() == {"one", "other", "third"}


def test_another_disk_has_another_name(tmp_path: Path) -> None:
    others = [Path(part.mountpoint) for part in psutil.disk_partitions(all=True) if os.path.ismount(part.mountpoint)]
    here = Sample(tmp_path).mount
    assert Sample(tmp_path / "not" / "there" / "yet").mount == here
    differing = [path for path in others if path.stat().st_dev != tmp_path.stat().st_dev]
    if not differing:
        pytest.skip("everything is on one disk")
    assert Sample(differing[0]).mount != here
    link = tmp_path / "link"
    link.symlink_to(differing[0])
    assert Sample(link).mount == Sample(differing[0]).mount, "a store may lie elsewhere than the folder of stores"


def test_neighbours_that_compute_are_noticed(tmp_path: Path) -> None:
    said: list[str] = []
    busy = subprocess.Popen([sys.executable, "-c", "print(flush=True)\nwhile True: pass"], stdout=subprocess.PIPE)
    assert busy.stdout
    try:
        busy.stdout.readline()
        Measured(tmp_path / "machine.json", say=said.append).once("sleep", ("x",), lambda: [time.sleep(0.5)] and {"x": 1.0})
    finally:
        busy.kill()
        busy.communicate()
    assert said[0] == "measuring sleep"
    assert re.fullmatch(r"other programs used \d+\.\d cores meanwhile: --measure .*", said[1])


def test_what_is_computed_here_is_no_neighbours(monkeypatch: pytest.MonkeyPatch) -> None:
    every, own, clock = iter([10.0, 14.0]), iter([1.0, 2.0]), iter([0.0, 2.0])
    monkeypatch.setattr(psutil, "cpu_times", lambda: SimpleNamespace(user=next(every), system=0.5, nice=0.25))
    monkeypatch.setattr(time, "process_time", lambda: next(own))
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))
    with Neighbours() as neighbours:
        pass
    assert (neighbours.cores, neighbours.busy) == (1.5, True)


# --- the disk


def test_large_files_that_are_there_are_read_and_nothing_is_written(tmp_path: Path) -> None:
    files = [tmp_path / f"layer-{number}" for number in range(3)]
    for path in files:
        path.write_bytes(bytes(LARGE))
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert read_rate(Sample(tmp_path / "no such folder", files)) > 1e5
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before


def test_files_too_small_to_show_a_rate_are_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "layer").write_bytes(bytes(LARGE - 1))
    seen: list[Path] = []
    real = disk._rate
    monkeypatch.setattr(disk, "_rate", lambda path: seen.append(path) or real(path))
    assert read_rate(Sample(tmp_path, [tmp_path / "layer"], READ)) > 1e5
    assert len(seen) == disk.FILES
    assert all(path.parent.name.startswith(disk.PREFIX) for path in seen)


def test_what_is_written_is_gone_after_ctrl_c(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def pressed(path: Path) -> float:
        raise KeyboardInterrupt

    monkeypatch.setattr(disk, "_rate", pressed)
    with pytest.raises(KeyboardInterrupt):
        read_rate(Sample(tmp_path, read=READ))
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_to_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OffloadError, match="file") as caught:
        read_rate(Sample(tmp_path / "file" / "folder", read=READ))
    assert "SPECEXEC_HOME" in caught.value.hint
    with pytest.raises(OffloadError, match=r"machine\.json") as caught:
        Measured(tmp_path / "file" / "machine.json").once("x", ("y",), lambda: {"y": 1.0})
    assert "SPECEXEC_HOME" in caught.value.hint


# --- memory and devices


def test_free_memory_is_below_all_there_is() -> None:
    assert 0 < free_memory() <= psutil.virtual_memory().total


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_device_there_is_neither_memory_nor_a_bus() -> None:
    assert (bus.device(), bus.free_vram()) == (None, None)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_the_bus_of_a_device_has_a_rate() -> None:
    assert 1e8 < bus.rate(2**26) < 1e12
    assert bus.free_vram()


def unasked(counts: Sequence[int]) -> Mapping[int, float]:
    raise AssertionError("this is known")
