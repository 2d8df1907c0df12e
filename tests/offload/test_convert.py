"""Conversions of tiny models: every tensor is what Quantised makes of it; what is refused; and dying between any two steps."""

import errno
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from offload import convert as conversion
from offload.convert import convert
from offload.errors import DamagedFiles, OffloadError, Refused
from offload.folder import EMBEDDING, HEAD, LAYERS, SINGLE, Folder
from offload.form import Quantised
from offload.header import published_header
from offload.journal import Partial
from offload.manifest import NAME, is_store
from offload.parts import Stored
from offload.published import Goal, published
from offload.relaid import relaid
from offload.store import Store
from offload.verify import verify
from offload.writing import NoRoom
from specexec.formats import Packed, relay
from tests.models import FAMILIES, save, saved
from tests.offload.test_folder import fails
from tests.offload.test_store import Nobody, flip

CPU = torch.device("cpu")
NORM = "model.norm.weight"


class Noted(Nobody):
    """Keeps what was said."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.bytes = 0

    def advance(self, what: str, count: int) -> None:
        self.bytes += count

    def say(self, text: str) -> None:
        self.said.append(text)


def make(folder: Path, out: Path, kind: str = "nf4", layout: str | None = "tile16", tied: bool = False) -> Store:
    """The conversion of a tiny model."""
    assert convert(published(Folder(folder), Goal(kind, layout, 3, tied)), out, Nobody())
    return Store(out)


def tensors(store: Store) -> dict[str, torch.Tensor]:
    """All of a store's, by their published names, as the safetensors library reads them."""
    found: dict[str, torch.Tensor] = {}
    for name in (*store.layers, store.head, store.embedding):
        before = f"{LAYERS}{int(name[6:9])}." if name in store.layers else ""
        read = load_file(store.path / name)
        found |= {before + tensor: read[tensor] for tensor in store.spans(name)}
    return found


def same(a: Path, b: Path) -> bool:
    """Whether two folders hold the same files, byte for byte."""
    names = {path.name for path in a.iterdir()}
    return names == {p.name for p in b.iterdir()} and all((a / name).read_bytes() == (b / name).read_bytes() for name in names)


@pytest.fixture(autouse=True)
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiny matrices are converted in several steps too, and no disk is waited for."""
    monkeypatch.setattr("offload.parts.CHUNK", 1500)
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


# --- what is in a store


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


# --- what is refused, in words


def edited(tmp_path: Path, edit: Callable[[dict[str, torch.Tensor]], object]) -> Path:
    folder = shutil.copytree(saved("llama"), tmp_path / "model")
    found = load_file(folder / SINGLE)
    edit(found)
    save_file({name: tensor.contiguous() for name, tensor in found.items()}, folder / SINGLE)
    return folder


UP = f"{LAYERS}1.mlp.up_proj.weight"
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
    with Partial(tmp_path / "out").locked():
        assert "another" in fails(Refused, 1, lambda: make(saved("llama"), tmp_path / "out"))
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


# --- stopping and going on


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


# --- disks


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


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KB."""
    path = tmp_path / "disk"
    path.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(path)], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"a small file system cannot be mounted here: {mounted.stderr.strip()}")
    yield path
    subprocess.run(["umount", str(path)], check=True)


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
