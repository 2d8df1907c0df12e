"""Headers of safetensors files, believed in nothing until it has been checked. Those of a store carry their own checksum."""

import json
import os
import stat
from collections.abc import Iterable, Mapping
from math import prod
from pathlib import Path
from typing import Any, NoReturn

import torch
import xxhash

from offload.buffer import Span
from offload.errors import DamagedFiles

DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2, "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8,
    "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip
LENGTH = 8  # bytes of the number before the header
LARGEST = 100_000_000  # bytes of a header, as the safetensors library has it
DEEPEST = 8  # dimensions of a tensor
METADATA = "__metadata__"
SEAL = b'{"__metadata__":{"xxh3_64":"'  # how a store's headers begin; then 16 hex digits, of the header with zeros for them
NO_SEAL = b"0" * 16
FILLERS = ("fill.", "padding")  # names of tensors that only put the others in their places

Spans = Mapping[str, Span]


def published_header(path: Path) -> Spans:
    """The tensors of a published file. Raises DamagedFiles, naming file and byte, where header and file do not agree."""
    file = _File(path, "fetch the model again")
    return file.spans(file.header())


def announced_header(path: Path, size: int, start: bytes) -> Spans | int:
    """The tensors of a file of `size` bytes that will be at `path`; where `start` is too short, how many bytes tell them."""
    file = _File(path, "another copy of the model")
    file.size = size
    end = LENGTH + file.length(start[:LENGTH])
    return file.spans(start[LENGTH:end]) if len(start) >= end else end


def store_header(path: Path) -> Spans:
    """The tensors of a store's file, fillers left out; any changed byte of the header raises DamagedFiles."""
    file = _File(path, f"specexec verify {path.parent}")
    text = file.header()
    if text != sealed(text):
        file.damaged(LENGTH, "its header differs from its checksum")
    return {name: span for name, span in file.spans(text).items() if not name.startswith(FILLERS)}


def sealed(text: bytes) -> bytes:
    """A header that begins with SEAL and 16 digits, with its checksum for the digits."""
    rest = text[len(SEAL) + len(NO_SEAL) :]
    return SEAL + xxhash.xxh3_64_hexdigest(SEAL + NO_SEAL + rest).encode() + rest


class _File:
    """A file whose header is checked. Its methods raise DamagedFiles."""

    def __init__(self, path: Path, hint: str) -> None:
        self.path, self.hint, self.size = path, hint, 0

    def header(self) -> bytes:
        try:
            if not stat.S_ISREG(self.path.stat().st_mode):  # a pipe would be waited for
                raise DamagedFiles(f"{self.path} is no file.", hint=self.hint)
            with self.path.open("rb") as file:
                self.size = os.fstat(file.fileno()).st_size
                return file.read(self.length(file.read(LENGTH)))
        except FileNotFoundError as error:
            raise DamagedFiles(f"{self.path} is missing.", hint=self.hint) from error
        except OSError as error:
            raise DamagedFiles(f"{self.path} cannot be read: {error.strerror}.", hint=self.hint) from error

    def length(self, raw: bytes) -> int:
        length = int.from_bytes(raw, "little")
        if not 2 <= length <= min(LARGEST, self.size - LENGTH):
            self.damaged(0, f"a header of {length:,} bytes cannot be in a file of {self.size:,}")
        return length

    def damaged(self, at: int, why: str) -> NoReturn:
        raise DamagedFiles(f"{self.path} is broken at byte {at:,}: {why}.", hint=self.hint)

    def spans(self, text: bytes) -> dict[str, Span]:
        try:
            found = json.loads(text.decode(), object_pairs_hook=_once)
        except (ValueError, RecursionError):
            self.damaged(LENGTH, "its header is no JSON")
        if not isinstance(found, dict):
            self.damaged(LENGTH, "its header is no JSON object")
        found.pop(METADATA, None)
        start = LENGTH + len(text)
        spans = {name: self._span(name, entry, start) for name, entry in found.items()}
        self._without_holes(spans.values(), start)
        return spans

    def _span(self, name: str, entry: Any, start: int) -> Span:
        try:
            kind, shape, (begin, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
            dtype, numbers = DTYPES[kind], [*shape, begin, end]
            sane = type(shape) is list and len(shape) <= DEEPEST
            sane = sane and all(type(number) is int and 0 <= number <= self.size for number in numbers)
        except (TypeError, ValueError, KeyError):
            sane = False
        if not sane:
            self.damaged(LENGTH, f"its header says of {name[:100]!r} what cannot be read")
        if end - begin != prod(shape) * dtype.itemsize or start + end > self.size:
            self.damaged(min(start + begin, self.size), f"{name[:100]!r} does not fit its place")
        return Span(dtype, tuple(shape), start + begin, start + end)

    def _without_holes(self, spans: Iterable[Span], start: int) -> None:
        for span in sorted(spans, key=lambda span: (span.start, span.end)):
            if span.start != start:
                self.damaged(min(start, span.start), "tensors overlap or leave a hole")
            start = span.end
        if start != self.size:
            self.damaged(start, f"its tensors end here, and the file at {self.size:,}")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object whose names are all different."""
    if len(made := dict(pairs)) != len(pairs):
        raise ValueError("a name stands twice")
    return made
