"""A store as a source of weights: some layers in memory, the others streamed, the embedding read by rows."""

import mmap
from pathlib import Path

import torch

from offload.buffer import Buffer
from offload.direct import DirectFile
from offload.plan import Placement
from offload.store import Store
from offload.stream import Piece, Streamer, Tensors, check, spread


def open_streamer(store: Store, placed: Placement) -> Streamer:
    """Reads what stays in memory. Raises DamagedFiles and OffloadError, naming the file."""
    pieces = [piece(store, name) for name in store.layers]
    resident = {**mapped(store, store.embedding), **whole(store, store.head)}
    return Streamer(pieces, resident, spread(placed.pinned, len(pieces)), placed.slots)


def piece(store: Store, name: str) -> Piece:
    entry = store.entry(name)
    return Piece(store.path / name, entry.nbytes, entry.checksum, store.spans(name))


def whole(store: Store, name: str) -> Tensors:
    """A file's tensors, in memory and checked."""
    of = piece(store, name)
    buffer, file = Buffer(of.size), DirectFile(of.path)
    try:
        file.read(buffer.view)
    finally:
        file.close()
    check(of, buffer.view)
    return buffer.tensors(of.spans)


def mapped(store: Store, name: str) -> Tensors:
    """A file's tensors where they lie on disk: only the rows that are looked at are read."""
    spans, path = store.spans(name), Path(store.path / name)
    with path.open("rb") as file:
        room = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)  # torch warns of memory it may not write
    if hasattr(mmap, "MADV_RANDOM"):
        room.madvise(mmap.MADV_RANDOM)
    every = torch.frombuffer(room, dtype=torch.uint8)
    return {tensor: every[at.start : at.end].view(at.dtype).view(at.shape) for tensor, at in spans.items()}
