"""Conversions of models large enough to be killed on the way, and to show how much memory they take."""

import json
import random
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from safetensors.torch import save_file

from tests.offload.conversions import same

MIB = 2**20
PROGRAM = textwrap.dedent("""
    import os, resource, signal, sys, threading, time
    from pathlib import Path
    from offload.convert import convert
    from offload.folder import Folder
    from offload.published import Goal, published

    class Nobody:
        begin = advance = work = say = lambda *given: None

    folder, out, kind, layers, delay = sys.argv[1:]
    blueprint = published(Folder(Path(folder)), Goal(kind, None if kind == "bf16" else "tile16", int(layers), False))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if float(delay):
        threading.Timer(float(delay), lambda: os.kill(os.getpid(), signal.SIGKILL)).start()
    began = time.perf_counter()
    convert(blueprint, Path(out), Nobody())
    print(time.perf_counter() - began, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)
    sys.stdout.flush()
    os._exit(0)
""")


class Ran(NamedTuple):
    seconds: float
    grown: int  # bytes of memory, at the most


def write_model(folder: Path, layers: int, width: int, ffn: int, vocabulary: int) -> Path:
    """A random bf16 model, a file a layer; matrices of a shape hold the same numbers."""
    folder.mkdir()
    held = torch.randn(MIB, generator=torch.Generator().manual_seed(7)).bfloat16()

    def matrix(rows: int, columns: int) -> torch.Tensor:
        return held.repeat(-(-rows * columns // MIB))[: rows * columns].view(rows, columns)

    shapes = {"self_attn.q_proj": (width, width), "self_attn.k_proj": (width, width), "self_attn.v_proj": (width, width),
              "self_attn.o_proj": (width, width), "mlp.gate_proj": (ffn, width), "mlp.up_proj": (ffn, width),
              "mlp.down_proj": (width, ffn)}
    files = [{f"model.layers.{index}.{name}.weight": matrix(*shape) for name, shape in shapes.items()}
             | {f"model.layers.{index}.{name}_layernorm.weight": held[:width] for name in ("input", "post_attention")}
             for index in range(layers)]
    files.append({"model.embed_tokens.weight": matrix(vocabulary, width), "lm_head.weight": matrix(vocabulary, width),
                  "model.norm.weight": held[:width]})
    for number, tensors in enumerate(files):
        save_file({name: tensor.clone() for name, tensor in tensors.items()}, folder / f"model-{number}.safetensors")
    weights = {name: f"model-{number}.safetensors" for number, tensors in enumerate(files) for name in tensors}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weights}))
    (folder / "config.json").write_text("{}")
    return folder


def run(folder: Path, out: Path, kind: str, layers: int, kill_after: float = 0.0) -> Ran | None:
    """A conversion in a process of its own; None: it was killed."""
    given = [sys.executable, "-c", PROGRAM, str(folder), str(out), kind, str(layers), str(kill_after)]
    ran = subprocess.run(given, cwd=Path(__file__).parents[2], capture_output=True, text=True)
    assert ran.returncode in (0, -9), ran.stderr
    if ran.returncode:
        return None
    seconds, grown = ran.stdout.split()
    return Ran(float(seconds), int(grown))


def kill(folder: Path, tmp_path: Path, layers: int, times: int) -> Iterator[int]:
    """Kills conversions at random moments, so many times, and compares what they come to; yields the files left by each."""
    wanted, out, chance = tmp_path / "wanted", tmp_path / "out", random.Random(times)
    whole = run(folder, wanted, "nf4", layers)
    assert whole
    for _ in range(times):
        while run(folder, out, "nf4", layers, chance.uniform(0, whole.seconds)):
            assert same(out, wanted)
            shutil.rmtree(out)
        assert not out.exists() or same(out, wanted)
        yield len(list((tmp_path / "out.partial").glob("store/*.safetensors")))
    run(folder, out, "nf4", layers)
    assert same(out, wanted)


def test_three_kills_end_in_the_same_bytes(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model", layers=6, width=768, ffn=2560, vocabulary=4000)
    list(kill(folder, tmp_path, 6, times=3))
    assert not (tmp_path / "out.partial").exists()


@pytest.mark.slow
def test_thirty_kills_of_a_gigabyte_end_in_the_same_bytes(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model", layers=10, width=2048, ffn=6144, vocabulary=16_000)
    assert sum(path.stat().st_size for path in folder.iterdir()) > 10**9
    assert max(kill(folder, tmp_path, 10, times=30)) > 2


@pytest.mark.parametrize("kind", ["nf4", "bf16"])
def test_memory_holds_rows_not_layers(kind: str, tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model", layers=2, width=1024, ffn=8192, vocabulary=50_000)
    layer = (folder / "model-0.safetensors").stat().st_size
    assert (folder / "model-2.safetensors").stat().st_size > 3 * layer  # embedding and head
    ran = run(folder, tmp_path / "out", kind, 2)
    assert ran
    assert ran.grown < 2 * layer + 128 * MIB
