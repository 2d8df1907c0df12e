"""The files that llama.cpp is measured with, and the limit it is measured under. llama.cpp itself is not needed."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.benchmarks.streaming_peers import limit, room
from tests.benchmarks.streaming_peers.noise import Noise
from tests.benchmarks.streaming_peers.shape import SHAPES, Shape, shape_of

TINY = Shape("tiny", width=256, layers=2, heads=4, kv_heads=2, head_dim=64, ffn=768, vocab=1000)
V2 = "4 2 0:2 / {} rw - cgroup2 cgroup2 rw"
Q4_0, Q6_K = 18 / 32, 210 / 256  # bytes a weight
LAYER = {"attn_k": (128, 256), "attn_norm": (256,), "attn_output": (256, 256), "attn_q": (256, 256), "attn_v": (128, 256),
         "ffn_down": (256, 768), "ffn_gate": (768, 256), "ffn_norm": (256,), "ffn_up": (768, 256)}
EVERY = {"output.weight": (1000, 256), "output_norm.weight": (256,), "token_embd.weight": (1000, 256),
         **{f"blk.{index}.{name}.weight": shape for index in range(2) for name, shape in LAYER.items()}}


def nbytes(name: str, shape: tuple[int, ...]) -> int:
    if len(shape) == 1:
        return 4 * shape[0]
    return int(shape[0] * shape[1] * (Q6_K if name == "output.weight" else Q4_0))


def padded(count: int) -> int:
    return -(-count // 32) * 32


def test_a_gguf_holds_every_tensor_in_the_quantisers_formats(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gguf = pytest.importorskip("gguf", reason="gguf is not installed; it comes with the environment of the peers")
    from tests.benchmarks.streaming_peers import gguf_file, noise

    monkeypatch.setattr(noise, "CHUNK", 50_000)  # tensors in several pieces, the last of them shorter
    gguf_file.make(TINY, tmp_path / "tiny.gguf", leave=True)
    read = gguf.GGUFReader(tmp_path / "tiny.gguf")
    assert {tensor.name: tuple(tensor.shape[::-1]) for tensor in read.tensors} == EVERY
    assert [tensor.name for tensor in read.tensors] == list(EVERY)
    assert {tensor.name: tensor.n_bytes for tensor in read.tensors} == {name: nbytes(name, EVERY[name]) for name in EVERY}
    assert (tmp_path / "tiny.gguf").stat().st_size == read.data_offset + sum(padded(nbytes(*item)) for item in EVERY.items())
    for tensor in read.tensors:
        weight = gguf.dequantize(tensor.data, tensor.tensor_type)
        size = 1 if len(tensor.shape) == 1 else tensor.shape[0] ** -0.5
        assert 0.5 * size < np.square(weight).mean() ** 0.5 < 3 * size, tensor.name


def test_the_published_shape_takes_forty_gigabytes() -> None:
    gguf_file = pytest.importorskip("tests.benchmarks.streaming_peers.gguf_file", exc_type=ImportError,
                                    reason="gguf is not installed; it comes with the environment of the peers")
    assert round(sum(tensor.nbytes for tensor in gguf_file.tensors(SHAPES["llama-3.1-70b"])) / 1e9, 1) == 40.0


@pytest.mark.parametrize("chunk", [2**10, 2**24])
def test_noise_is_of_the_size_asked_for(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.benchmarks.streaming_peers.noise.CHUNK", chunk)
    bits = np.concatenate([piece.reshape(-1) for piece in Noise().bf16(300, 1000)]).view("<u2")
    weight = (bits.astype(np.uint32) << 16).view(np.float32)
    assert weight.shape == (300_000,)
    assert 0.5 < np.square(weight).mean() * 1000 < 2
    assert abs(weight.mean()) < 3e-4
    assert len(np.unique(weight)) == 256  # sign and fraction


def test_nothing_is_written_without_leave_or_room(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"takes 5.0 GB of .*\nthe same command with --yes"):
        room.ask(tmp_path / "x", 5 * 10**9, leave=False)
    with pytest.raises(SystemExit, match=r"takes .*\n--out on a larger disk"):
        room.ask(tmp_path / "x", 10**18, leave=True)
    with pytest.raises(SystemExit, match=r"there already.\n"):
        room.ask(tmp_path, 1, leave=True)


def test_a_broken_off_file_goes_away(tmp_path: Path) -> None:
    def half() -> None:
        with room.making(tmp_path / "x") as part:
            part.write_bytes(b"half")
            raise OSError("disk")

    with pytest.raises(OSError, match="disk"):
        half()
    assert not list(tmp_path.iterdir())


def test_only_llamas_have_a_shape(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text('{"model_type": "mamba"}', encoding="utf-8")
    for name in (str(path), "llama-9"):
        with pytest.raises(SystemExit, match=r"is no shape: .*\none of llama-3.1-70b"):
            shape_of(name)


@pytest.mark.parametrize(("text", "nbytes"), [("3GiB", 3 * 2**30), ("1.5G", 3 * 2**29), ("512 MiB", 2**29), ("7", 7)])
def test_amounts(text: str, nbytes: int) -> None:
    assert limit.amount(text) == nbytes


@pytest.mark.parametrize(("mounts", "own", "outer"), [
    ("3 2 0:1 / {}/memory rw - cgroup cgroup rw,memory\n" + V2, "4:memory:/a/b\n0::/\n", "memory/a/b"),
    ("3 2 0:1 /a {}/memory rw shared:5 - cgroup cgroup rw,hugetlb,memory", "4:hugetlb,memory:/a/b\n", "memory/b"),
    (V2, "0::/a/b\n", "a"),
    (V2, "0::/\n", "."),
])
def test_where_groups_are_made(mounts: str, own: str, outer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    proc(monkeypatch, tmp_path, mounts, own)
    for folder in (tmp_path, tmp_path / "a"):
        folder.mkdir(exist_ok=True)
        (folder / "cgroup.subtree_control").write_text("cpu memory\n")
    assert limit.version().outer == tmp_path / outer


@pytest.mark.parametrize("mounts", [V2, "3 2 0:1 / {} rw - ext4 /dev/sda rw"])
def test_says_that_memory_cannot_be_limited(mounts: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    proc(monkeypatch, tmp_path, mounts, "0::/\n")
    (tmp_path / "cgroup.subtree_control").write_text("cpu\n")
    with pytest.raises(SystemExit, match=r"memory cannot be limited here: .*\nwithout --ram"):
        limit.again([], 2**30)


def proc(monkeypatch: pytest.MonkeyPatch, folder: Path, mounts: str, own: str) -> None:
    for name, text in (("MOUNTS", mounts.replace("{}", str(folder))), ("OWN", own)):
        (folder / name).write_text(text)
        monkeypatch.setattr(limit, name, folder / name)


def test_help_needs_no_peer() -> None:
    run = subprocess.run([sys.executable, "-m", limit.PACKAGE, "--help"], capture_output=True, text=True, check=True)
    assert "llamacpp" in run.stdout
