"""The hub of a test: a server process, what it holds, and what it does wrong."""

import json
import os
import shutil
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from offload.manifest import NAME, read_manifest
from tests.hub_server import FAULTS, REQUESTS, STATE

ROOT = Path(__file__).parents[1]
BUNDLED = ROOT / "specexec" / "bundled"
REPO = "org/Tiny-Stories-1B"


class Hub:
    """url: its address. root: what it serves."""

    def __init__(self, root: Path) -> None:
        self.root = root
        command = [sys.executable, "-m", "tests.hub_server", str(root)]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
        assert self._process.stdout is not None
        self.url = self._process.stdout.readline().strip()

    def close(self) -> None:
        self._process.kill()
        self._process.wait()

    def reset(self) -> None:
        """Holds nothing, and does nothing wrong."""
        for path in self.root.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    def add(self, name: str, folder: Path, **state: Any) -> Path:
        """A repo of the files of a folder; state: gated (the token that opens it), extra (entries that are listed only)."""
        repo = Path(shutil.copytree(folder, self.root / name, ignore=shutil.ignore_patterns("*.gguf")))
        for path in repo.iterdir():
            path.chmod(0o644)
        if state:
            (repo / STATE).write_text(json.dumps(state))
        return repo

    def breaks(self, *faults: dict[str, Any]) -> None:
        """Faults by `match`, a pattern of paths, and `times`; see hub_server."""
        path = self.root / "faults.new"
        path.write_text(json.dumps([{"id": uuid.uuid4().hex, **fault} for fault in faults]))
        path.replace(self.root / FAULTS)

    @property
    def requests(self) -> list[dict[str, Any]]:
        path = self.root / REQUESTS
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def asked(self, part: str) -> list[str | None]:
        """Ranges of the requests for paths that hold this."""
        return [request["range"] for request in self.requests if part in request["path"]]

    def environment(self, home: Path, **more: str) -> dict[str, str]:
        """Of a process that shall know no other hub."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "SPECEXEC_"))}
        return {**inherited, "HF_ENDPOINT": self.url, "HF_HOME": str(home / "hf"), "SPECEXEC_HOME": str(home),
                "NO_PROXY": "127.0.0.1,localhost", "PYTHONPATH": str(ROOT), **more}


def sharded(source: Path, folder: Path, shards: int, by: str = "order") -> Path:
    """A published model in so many files, whose tensors are cut at even numbers, in order or dealt out in turn."""
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns("*.safetensors*", "*.gguf"))
    tensors = list(load_file(source / "model.safetensors").items())
    tensors.sort(key=lambda item: _place(item[0]))
    groups = [tensors[i::shards] if by == "turn" else tensors[len(tensors) * i // shards : len(tensors) * (i + 1) // shards]
              for i in range(shards)]
    names = [f"model-{i + 1:05}-of-{shards:05}.safetensors" for i in range(shards)]
    for path in folder.iterdir():
        path.chmod(0o644)
    for name, group in zip(names, groups, strict=True):
        save_file(dict(group), folder / name)
    weight_map = {tensor: name for name, group in zip(names, groups, strict=True) for tensor, _ in group}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return folder


def _place(name: str) -> tuple[int, str]:
    """As the large models' files have it: embedding, layers, the rest."""
    parts = name.split(".")
    layer = int(parts[2]) if name.startswith("model.layers.") else -1 if "embed" in name else 10**6
    return layer, name


def same_files(a: Path, b: Path) -> bool:
    """Whether two stores differ in their manifests alone, and there in their source alone."""
    names = {path.name for path in a.iterdir()}
    return names == {path.name for path in b.iterdir()} and all(
        (a / name).read_bytes() == (b / name).read_bytes() for name in names - {NAME}
    ) and (read_manifest(a).files, read_manifest(a).matrices) == (read_manifest(b).files, read_manifest(b).matrices)
