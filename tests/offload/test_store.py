"""Files of a store: what any safetensors reader sees, how they lie, and that no changed byte of a header or manifest passes."""

import contextlib
import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from offload import frame as layout
from offload.buffer import Buffer
from offload.convert import convert
from offload.errors import DamagedFiles, NotHere, Refused
from offload.folder import Folder
from offload.header import LENGTH, Spans, published_header, store_header
from offload.manifest import NAME, read_manifest
from offload.published import Goal, published
from offload.store import Store
from offload.verify import verify
from offload.writing import write
from tests.models import saved
from tests.offload.test_folder import fails


class Nobody:
    """Implements Watcher."""

    def begin(self, total: int, done: int) -> None: ...

    def work(self, here: Mapping[str, int], total: int) -> None: ...

    def advance(self, what: str, count: int) -> None: ...

    def say(self, text: str) -> None: ...


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store, not to be changed."""
    out = tmp_path_factory.mktemp("stores") / "qwen2"
    assert convert(published(Folder(saved("qwen2")), Goal("nf4", "tile16", 3, False)), out, Nobody())
    return out


@pytest.fixture
def store(whole: Path, tmp_path: Path) -> Path:
    """One that is free to be broken."""
    return shutil.copytree(whole, tmp_path / "store")


def flip(path: Path, at: int, bits: int = 1) -> None:
    """In place: twice is not at all."""
    with path.open("r+b") as file:
        file.seek(at, 2 if at < 0 else 0)
        byte = file.read(1)[0]
        file.seek(-1, 1)
        file.write(bytes([byte ^ bits]))


# --- how a file is laid out

tensors = st.lists(st.tuples(st.sampled_from([torch.uint8, torch.float16, torch.float32, torch.int8]),
                             st.lists(st.integers(1, 40), min_size=1, max_size=3).map(tuple)), min_size=1, max_size=8)


@given(tensors)
def test_a_file_is_what_safetensors_reads_and_what_a_disk_reads_best(tmp_path_factory: Any, wanted: Any) -> None:
    path = tmp_path_factory.mktemp("frame") / "file.safetensors"
    slots = [layout.Slot(f"t{number}", *what) for number, what in enumerate(wanted)]
    made = {slot.name: torch.randint(0, 100, slot.shape).to(slot.dtype) for slot in slots}
    frame = layout.frame(slots)
    entry = write(path, frame.around(x.flatten().view(torch.uint8).numpy().data for x in made.values()))
    assert entry.nbytes == path.stat().st_size == frame.nbytes
    assert frame.nbytes % layout.PAGE == len(frame.head) % layout.PAGE == 0
    spans = store_header(path)
    assert list(spans) == list(made)
    assert all(span.start % layout.LINE == 0 for span in spans.values())
    read = load_file(path)
    assert all(read[name].equal(tensor) for name, tensor in made.items())
    assert all(not read[name].any() for name in read.keys() - made.keys())


def test_tensors_of_a_layer_come_in_order_of_use(whole: Path) -> None:
    spans = Store(whole).spans("layer-001.safetensors")
    assert [name for name in spans if not name.endswith(("scales", "bias"))] == [
        "input_layernorm.weight", "self_attn.q_proj.weight", "self_attn.k_proj.weight", "self_attn.v_proj.weight",
        "self_attn.o_proj.weight", "post_attention_layernorm.weight", "mlp.gate_proj.weight", "mlp.up_proj.weight",
        "mlp.down_proj.weight"]
    assert [name for name in spans if ".k_proj" in name] == [f"self_attn.k_proj.{x}" for x in ("weight", "scales", "bias")]


def test_a_buffer_that_holds_the_file_gives_its_tensors(whole: Path) -> None:
    store = Store(whole)
    for name in (*store.layers, store.head, store.embedding):
        buffer = Buffer(store.entry(name).nbytes)
        buffer.view[:] = (whole / name).read_bytes()
        with safe_open(whole / name, "pt") as file:
            for tensor, view in buffer.tensors(store.spans(name)).items():
                assert view.equal(file.get_tensor(tensor))
                assert view.data_ptr() % layout.LINE == 0


# --- headers that lie


def agrees(found: Spans, path: Path) -> None:
    """Spans within the file, one after the other."""
    size = path.stat().st_size
    ends = sorted((span.start, span.end) for span in found.values())
    assert all(0 <= start <= end <= size for start, end in ends)
    assert all(end <= start for (_, end), (start, _) in pairwise(ends))


def test_every_changed_bit_of_a_stores_header_is_seen(store: Path) -> None:
    path = store / "layer-000.safetensors"
    wanted = store_header(path)
    for at in range(min(span.start for span in wanted.values())):
        flip(path, at, 1 << at % 8)
        with pytest.raises(DamagedFiles, match=r"layer-000.safetensors.* byte \d"):
            store_header(path)
        flip(path, at, 1 << at % 8)
    assert store_header(path) == wanted


changes = st.lists(st.tuples(st.integers(0, 4095), st.integers(0, 255)), min_size=1, max_size=6)


def changed_copy(path: Path, into: Path, changed: list[tuple[int, int]]) -> Path:
    raw = bytearray(path.read_bytes())
    for at, byte in changed:
        raw[at] = byte
    (into / path.name).write_bytes(raw)
    return into / path.name


@given(changes)
def test_no_header_of_changed_bytes_is_believed(tmp_path_factory: Any, whole: Path, changed: Any) -> None:
    path = changed_copy(whole / "head.safetensors", tmp_path_factory.mktemp("changed"), changed)
    with contextlib.suppress(DamagedFiles):
        assert store_header(path) == store_header(whole / "head.safetensors")


@given(changes)
def test_a_published_header_of_changed_bytes_is_refused_or_consistent(tmp_path_factory: Any, changed: Any) -> None:
    path = changed_copy(saved("llama") / "model.safetensors", tmp_path_factory.mktemp("published"), changed)
    with contextlib.suppress(DamagedFiles):
        agrees(published_header(path), path)


def with_header(path: Path, header: object, data: int = 64) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(LENGTH, "little") + text + bytes(data))
    return path


def of(**changed: object) -> dict[str, dict[str, object]]:
    return {"a": {"dtype": "F32", "shape": [16], "data_offsets": [0, 64], **changed}}


HOSTILE = {
    "other dtype": of(dtype="F33"), "no dtype": of(dtype=[]), "negative": of(shape=[-16]), "fractions": of(shape=[16.0]),
    "booleans": of(shape=[16, True]), "text": of(shape="16"), "too large": of(shape=[2**62, 2**62]), "no shape": of(shape=None),
    "beyond": of(shape=[32], data_offsets=[0, 128]), "backwards": of(data_offsets=[64, 0]), "hole": of(data_offsets=[4, 68]),
    "three": of(data_offsets=[0, 32, 64]), "deep": of(shape=[1] * 50 + [16]), "short": of(shape=[8], data_offsets=[0, 32]),
    "overlap": of() | {"b": of()["a"]}, "list": [], "number": 5, "entry": {"a": 5}, "twice": b'{"a":1,"a":1}',
    "nested": b"[" * 50_000, "not utf-8": b'{"\xff":1}', "huge": b'{"a":' + b"9" * 5000 + b"}", "empty": b"",
}


@pytest.mark.parametrize("header", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_header_is_damage(tmp_path: Path, header: object) -> None:
    path = with_header(tmp_path / "hostile.safetensors", header)
    assert str(path) in fails(DamagedFiles, 5, lambda: published_header(path))


@pytest.mark.parametrize("length", [0, 1, 10**6, 2**63, 2**64 - 1])
def test_a_length_that_cannot_be_is_damage(tmp_path: Path, length: int) -> None:
    path = tmp_path / "long.safetensors"
    path.write_bytes(length.to_bytes(LENGTH, "little") + b"{}")
    assert "byte 0" in fails(DamagedFiles, 5, lambda: published_header(path))


def test_what_the_library_writes_is_read_alike(tmp_path: Path) -> None:
    made = {"a": torch.randn(3, 5).bfloat16(), "b": torch.ones(0, 4), "c": torch.tensor(7), "d": torch.ones(2).bool()}
    save_file(made, tmp_path / "x.safetensors", {"format": "pt"})
    found = published_header(tmp_path / "x.safetensors")
    assert {name: (span.dtype, span.shape) for name, span in found.items()} == {n: (x.dtype, x.shape) for n, x in made.items()}


@pytest.mark.parametrize("spoil", [lambda path: path.unlink(), lambda path: (path.unlink(), path.mkdir()),
                                   lambda path: path.write_bytes(b""), lambda path: path.write_bytes(path.read_bytes()[:-1])],
                         ids=["missing", "folder", "empty", "cut"])
def test_a_file_that_is_not_whole_is_named(store: Path, spoil: Callable[[Path], object]) -> None:
    path = store / "head.safetensors"
    spoil(path)
    assert str(path) in fails(DamagedFiles, 5, lambda: store_header(path))
    assert str(path) in fails(DamagedFiles, 5, lambda: Store(store))
    assert "head.safetensors" in fails(DamagedFiles, 5, lambda: verify(store, Nobody()))


# --- the manifest, and verifying


def test_a_store_says_what_it_is(whole: Path) -> None:
    store = Store(whole)
    assert (store.quant, store.layout, store.tied, len(store.layers)) == ("nf4", "tile16", False, 3)
    assert store.config["model_type"] == "qwen2"
    assert store.generation == Folder(saved("qwen2")).generation
    assert store.matrices["mlp.down_proj"] == (48, 64)
    assert store.matrices["lm_head"] == (80, 48)
    assert store.nbytes == sum(path.stat().st_size for path in whole.iterdir() if path.name != NAME)
    assert verify(whole, Nobody()) == store.manifest


def test_every_changed_byte_of_a_manifest_is_seen(store: Path) -> None:
    for at in range((store / NAME).stat().st_size):
        flip(store / NAME, at, 1 << at % 8)
        with pytest.raises(DamagedFiles, match=r"manifest.json"):
            read_manifest(store)
        flip(store / NAME, at, 1 << at % 8)
    read_manifest(store)


def rewrite(store: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    """Another manifest, whose own checksum is right."""
    said = json.loads((store / NAME).read_text())
    del said["sha256"]
    edit(said)
    text = json.dumps(said, indent=1).encode() + b"\n"
    said["sha256"] = hashlib.sha256(text).hexdigest()
    (store / NAME).write_bytes(json.dumps(said, indent=1).encode() + b"\n")


HOSTILE_MANIFESTS: dict[str, Callable[[dict[str, Any]], object]] = {
    "escapes": lambda said: said["files"].update({"../x": said["files"]["config.json"]}),
    "absolute": lambda said: said["files"].update({"/etc/passwd": said["files"]["config.json"]}),
    "itself": lambda said: said["files"].update({NAME: said["files"]["config.json"]}),
    "lacks a layer": lambda said: said["files"].pop("layer-001.safetensors"),
    "lacks the head": lambda said: said["files"].pop("head.safetensors"),
    "many layers": lambda said: said.update(layers=10**12),
    "no layers": lambda said: said.update(layers=0),
    "quantisation": lambda said: said.update(quantisation="nf3"),
    "layout": lambda said: said.update(layout=None),
    "size": lambda said: said["files"]["config.json"].update(nbytes=-1),
    "checksum": lambda said: said["files"]["config.json"].update(xxh3_64="x"),
    "no files": lambda said: said.update(files=[]),
    "no version": lambda said: said.update(specexec="1"),
}


@pytest.mark.parametrize("how", HOSTILE_MANIFESTS)
def test_a_manifest_that_cannot_be_is_damage(store: Path, how: str) -> None:
    rewrite(store, HOSTILE_MANIFESTS[how])
    assert NAME in fails(DamagedFiles, 5, lambda: Store(store))


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"\xff", b"[" * 100_000])
def test_a_manifest_that_is_none_is_damage(store: Path, content: bytes) -> None:
    (store / NAME).write_bytes(content)
    assert NAME in fails(DamagedFiles, 5, lambda: Store(store))


def test_a_newer_format_is_refused_by_number(store: Path) -> None:
    rewrite(store, lambda said: said.update(specexec=3, shape="new"))
    assert "format 3" in fails(Refused, 1, lambda: Store(store))


@pytest.mark.parametrize("name", ["", "nowhere"])
def test_a_folder_that_is_no_store(tmp_path: Path, name: str) -> None:
    assert NAME in fails(NotHere, 4, lambda: Store(tmp_path / name))


def test_a_changed_bit_of_any_file_is_found_by_verify(store: Path) -> None:
    for number, path in enumerate(sorted(store.iterdir())):
        size = path.stat().st_size
        for at in {0, size // 2, size - 1, number * 7919 % size}:
            flip(path, at, 1 << number % 8)
            assert path.name in fails(DamagedFiles, 5, lambda: verify(store, Nobody()))
            flip(path, at, 1 << number % 8)
    verify(store, Nobody())


def test_verify_names_each_file_that_is_wrong(store: Path) -> None:
    flip(store / "layer-000.safetensors", -1)
    (store / "layer-002.safetensors").unlink()
    (store / "config.json").write_text("{}")
    said = fails(DamagedFiles, 5, lambda: verify(store, Nobody()))
    assert "3 files" in said
    assert "layer-000.safetensors differs" in said
    assert "layer-002.safetensors is missing" in said
    assert "config.json has 2 bytes" in said
    assert "layer-001" not in said
