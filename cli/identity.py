"""Which model it is: what a saved chat, or a saved cache, was made with."""

import hashlib
import json
from pathlib import Path

from cli.codec import Codec
from cli.name import is_gguf
from offload.gguf import Gguf
from offload.gguf_tokenizer import tokenizer
from offload.manifest import is_store

SAMPLES, SAMPLE = 64, 4096  # of a file of weights: reading all of it would take as long as loading it


def identity(name: str, path: Path, codec: Codec) -> dict[str, str]:
    """model: as it was called. weights: by samples, where they are a published folder's. tokens: of ids and template."""
    tokens = hashlib.sha256(_tokenizer(path) + (codec.template or "").encode())
    return {"model": name, "weights": weights(path), "tokens": tokens.hexdigest()}


def weights(path: Path) -> str:
    """Hexadecimal."""
    if is_store(path):
        return hashlib.sha256((path / "manifest.json").read_bytes()).hexdigest()
    found = hashlib.sha256(b"" if is_gguf(path) else (path / "config.json").read_bytes())
    for file in [path] if is_gguf(path) else sorted(path.glob("*.safetensors")):
        found.update(f"{file.name} {file.stat().st_size}\n".encode())
        for sample in _samples(file):
            found.update(sample)
    return found.hexdigest()


def _samples(path: Path) -> list[bytes]:
    """Pieces of a file, its first and last among them."""
    last = max(0, path.stat().st_size - SAMPLE)
    with path.open("rb") as file:
        found = []
        for at in sorted({last * i // (SAMPLES - 1) for i in range(SAMPLES)}):
            file.seek(at)
            found.append(file.read(SAMPLE))
        return found


def _tokenizer(path: Path) -> bytes:
    """tokenizer.json, or what it would be of a GGUF file."""
    if is_gguf(path):
        return json.dumps(tokenizer(Gguf(path))[0], sort_keys=True).encode()
    return (path / "tokenizer.json").read_bytes()
