"""A conversion that dies between any two steps goes on, and ends in the same bytes."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from offload.convert import convert
from offload.errors import DamagedFiles, Refused
from offload.folder import LAYERS, SINGLE, Folder
from offload.journal import Partial
from offload.manifest import NAME, is_store
from offload.published import Goal, published
from offload.store import Store
from tests.models import saved
from tests.offload.conversions import Noted, edited, make, same
from tests.offload.test_folder import fails
from tests.offload.test_store import Nobody, flip

pytestmark = pytest.mark.usefixtures("small_steps")


class Died(BaseException):
    """The end of the process, as far as its disk can tell."""


STEPS = ((os, "fsync"), (Path, "replace"), (Path, "rename"), (Path, "mkdir"), (Path, "unlink"),
         (Path, "rmdir"), (shutil, "rmtree"))


@pytest.fixture
def dying(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int], None]]:
    """dying(n): the n-th step that a disk remembers does not happen, nor does any after it."""
    left = [10**9]

    def after(real: Callable[..., Any]) -> Callable[..., Any]:
        def step(*given: Any, **named: Any) -> Any:
            left[0] -= 1
            if left[0] < 0:
                raise Died
            return real(*given, **named)

        return step

    for owner, name in STEPS:
        monkeypatch.setattr(owner, name, after(getattr(owner, name)))
    yield lambda steps: left.__setitem__(0, steps)
    left[0] = 10**9


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="names of open files are asked of /proc")
def test_a_file_is_on_the_disk_before_its_name_and_its_name_before_it_is_noted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []

    def named(descriptor: int) -> None:
        done.append("sync " + Path(os.readlink(f"/proc/self/fd/{descriptor}")).name)

    def after(name: str) -> None:
        real = getattr(Path, name)
        monkeypatch.setattr(Path, name, lambda path, to: done.append(f"{path.name} -> {to.name}") or real(path, to))

    monkeypatch.setattr(os, "fsync", named)
    after("replace")
    after("rename")
    make(saved("llama"), tmp_path / "out")
    layer = "layer-001.safetensors"
    at = done.index(f"sync {layer}.part")
    assert done[at + 1 : at + 4] == [f"{layer}.part -> {layer}", "sync store", "sync journal"]
    assert done[-5:] == [f"sync {NAME}.part", f"{NAME}.part -> {NAME}", "sync store", "store -> out", f"sync {tmp_path.name}"]


def test_death_between_any_two_steps_ends_in_the_same_bytes(dying: Callable[[int], None], tmp_path: Path) -> None:
    wanted, out, steps = make(saved("llama"), tmp_path / "wanted").path, tmp_path / "out", 0
    blueprint = published(Folder(saved("llama")), Goal("nf4", "tile16", 3, False))
    died = True
    while died:
        try:
            dying(steps)
            convert(blueprint, out, Nobody())
            died = False
        except Died:
            pass
        dying(10**9)
        if is_store(out):
            assert same(out, wanted)
        convert(blueprint, out, Nobody())
        assert same(out, wanted)
        assert not (tmp_path / "out.partial").exists()
        shutil.rmtree(out)
        steps += 1
    assert steps > 40


def test_dying_again_and_again_gets_there(dying: Callable[[int], None], tmp_path: Path) -> None:
    wanted = make(saved("llama"), tmp_path / "wanted").path
    blueprint = published(Folder(saved("llama")), Goal("nf4", "tile16", 3, False))
    for deaths in range(100):
        dying(7 + deaths % 5)
        try:
            convert(blueprint, tmp_path / "out", Nobody())
        except Died:
            continue
        break
    dying(10**9)
    assert deaths > 5
    assert same(tmp_path / "out", wanted)


def stopped(folder: Path, out: Path, after: int, error: BaseException) -> None:
    """A conversion to nf4 that ends with `error` when so many bytes are written."""

    class Stop(Noted):
        def advance(self, what: str, count: int) -> None:
            super().advance(what, count)
            if self.bytes > after:
                raise error

    with pytest.raises(type(error)):
        convert(published(Folder(folder), Goal("nf4", "tile16", 3, False)), out, Stop())


def test_files_that_are_whole_are_not_made_again(tmp_path: Path) -> None:
    stopped(saved("llama"), tmp_path / "out", 60_000, KeyboardInterrupt())
    kept = {path.name: path.stat().st_ino for path in (tmp_path / "out.partial" / "store").iterdir()}
    assert "layer-000.safetensors" in kept
    watcher = Noted()
    convert(published(Folder(saved("llama")), Goal("nf4", "tile16", 3, False)), tmp_path / "out", watcher)
    assert all((tmp_path / "out" / name).stat().st_ino == number for name, number in kept.items())
    assert len(watcher.said) == 1
    assert "already here, verified" in watcher.said[0]


def test_a_file_damaged_in_between_is_made_again(tmp_path: Path) -> None:
    wanted = make(saved("llama"), tmp_path / "wanted").path
    stopped(saved("llama"), tmp_path / "out", 60_000, KeyboardInterrupt())
    flip(tmp_path / "out.partial" / "store" / "layer-000.safetensors", 9000)
    assert same(make(saved("llama"), tmp_path / "out").path, wanted)


@pytest.mark.parametrize("journal", [b"", b"{", b"[]\n", b'{"1": {}}\n', b"\xff\n", b'{"1": 5}\n{"name": 3}\n'])
def test_a_broken_journal_begins_anew(journal: bytes, tmp_path: Path) -> None:
    wanted = make(saved("llama"), tmp_path / "wanted").path
    stopped(saved("llama"), tmp_path / "out", 60_000, KeyboardInterrupt())
    (tmp_path / "out.partial" / "journal").write_bytes(journal)
    assert same(make(saved("llama"), tmp_path / "out").path, wanted)


def test_a_torn_line_costs_one_file(tmp_path: Path) -> None:
    wanted = make(saved("llama"), tmp_path / "wanted").path
    for _ in range(2):
        stopped(saved("llama"), tmp_path / "out", 40_000, KeyboardInterrupt())
        with (tmp_path / "out.partial" / "journal").open("ab") as file:
            file.write(b'{"name": "head.safet')
    entries = Partial(tmp_path / "out").read()[1]
    assert "layer-001.safetensors" in entries
    assert same(make(saved("llama"), tmp_path / "out").path, wanted)


def test_an_unfinished_conversion_to_something_else_is_kept(tmp_path: Path) -> None:
    stopped(saved("llama"), tmp_path / "out", 60_000, KeyboardInterrupt())
    for kind, layout in (("int8", "tile16"), ("nf4", "rowmajor"), ("bf16", None)):
        said = fails(Refused, 1, lambda kind=kind, layout=layout: make(saved("llama"), tmp_path / "out", kind, layout))
        assert "to nf4 in tile16" in said
    fails(Refused, 1, lambda: make(saved("qwen2"), tmp_path / "out"))
    make(saved("llama"), tmp_path / "out")


def test_a_source_that_changed_begins_anew_and_says_so(tmp_path: Path) -> None:
    folder = edited(tmp_path, lambda x: None)
    stopped(folder, tmp_path / "out", 60_000, KeyboardInterrupt())
    found = load_file(folder / SINGLE)
    found[f"{LAYERS}0.mlp.up_proj.weight"].neg_()
    save_file(found, folder / SINGLE)
    watcher = Noted()
    convert(published(Folder(folder), Goal("nf4", "tile16", 3, False)), tmp_path / "out", watcher)
    assert "has changed" in watcher.said[0]
    assert Store(tmp_path / "out").manifest.files == make(folder, tmp_path / "wanted").manifest.files


def test_a_source_that_changes_meanwhile_is_no_store(tmp_path: Path) -> None:
    folder = edited(tmp_path, lambda x: None)

    class Touch(Nobody):
        def advance(self, what: str, count: int) -> None:
            if what.startswith("layer-001"):
                os.utime(folder / SINGLE, (1, 1))

    blueprint = published(Folder(folder), Goal("nf4", "tile16", 3, False))
    assert "changed" in fails(DamagedFiles, 5, lambda: convert(blueprint, tmp_path / "out", Touch()))
    assert not (tmp_path / "out").exists()
