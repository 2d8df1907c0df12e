"""A store as a source of weights: some layers in memory, the others streamed, the embedding read by rows."""

import mmap
from collections.abc import Mapping
from pathlib import Path

import torch

from offload.buffer import Buffer
from offload.device_buffer import DeviceBuffer
from offload.device_stream import DeviceStream
from offload.direct import DirectFile
from offload.errors import TooLittleMemory
from offload.folder import HEAD
from offload.lane import Device
from offload.plan import Placement, gib
from offload.store import Store
from offload.stream import Piece, Streamer, Tensors, check, spread


def open_streamer(store: Store, placed: Placement) -> Streamer:
    """Reads what stays in memory. Raises DamagedFiles and OffloadError, naming the file."""
    pieces = [piece(store, name) for name in store.layers]
    resident = {**mapped(store, store.embedding), **whole(store, store.head)}
    return Streamer(pieces, resident, spread(placed.pinned, len(pieces)), placed.slots)


def open_device_stream(store: Store, placed: Placement, device: Device, dtype: torch.dtype) -> DeviceStream:
    """The same in a device's memory, vectors in `dtype`. Raises TooLittleMemory too, and OffloadError of locking memory."""
    pieces = [piece(store, name) for name in store.layers]
    on_device, pinned = split(placed, len(pieces))
    try:
        resident = _resident(store, device.place, dtype)
        kept = _kept({index: pieces[index] for index in sorted(on_device)}, device, dtype)
        ring = [DeviceBuffer(pieces, device.place, dtype) for _ in range(placed.device_slots)]
    except torch.OutOfMemoryError as error:
        raise TooLittleMemory(f"{device.place} has less memory free than the {gib(placed.device_bytes)} that were planned.",
                              hint="a smaller --vram, or end what else uses the GPU") from error
    return DeviceStream(Streamer(pieces, {}, pinned, placed.slots, on_device), resident, kept, ring, device)


def split(placed: Placement, layers: int) -> tuple[frozenset[int], frozenset[int]]:
    """(layers that stay on the device, layers that stay in memory), either spread over those that do not."""
    on_device = spread(placed.on_device, layers)
    others = [index for index in range(layers) if index not in on_device]
    return on_device, frozenset(others[at] for at in spread(placed.pinned, len(others)))


def _resident(store: Store, place: torch.device, dtype: torch.dtype) -> Tensors:
    """The head on the device; the embedding where it lies on disk, but where it is the head too."""
    rows, head = mapped(store, store.embedding), whole(store, store.head)
    if HEAD not in head:
        rows = {name: tensor.to(place) for name, tensor in rows.items()}
    return {**rows, **{name: tensor.to(place, dtype if tensor.dtype == torch.float32 else tensor.dtype)
                       for name, tensor in head.items()}}


def _kept(pieces: Mapping[int, Piece], device: Device, dtype: torch.dtype) -> dict[int, DeviceBuffer]:
    """A filled buffer for each of the layers."""
    if not pieces:
        return {}
    kept, staging = dict[int, DeviceBuffer](), Buffer(max(piece.size for piece in pieces.values()))
    for index, of in pieces.items():
        fill(staging, of)
        kept[index] = DeviceBuffer([of], device.place, dtype)
        device.copies.wait(device.compute.record())
        kept[index].fill(device.copies, of, staging.bytes[: of.size])
        device.copies.record().synchronize()
    return kept


def piece(store: Store, name: str) -> Piece:
    entry = store.entry(name)
    return Piece(store.path / name, entry.nbytes, entry.checksum, store.spans(name))


def whole(store: Store, name: str) -> Tensors:
    """A file's tensors, in memory and checked."""
    of = piece(store, name)
    buffer = Buffer(of.size)
    fill(buffer, of)
    return buffer.tensors(of.spans)


def fill(buffer: Buffer, of: Piece) -> None:
    """Reads and checks a file into the beginning of `buffer`."""
    view, file = buffer.view[: of.size], DirectFile(of.path)
    try:
        file.read(view)
    finally:
        file.close()
    check(of, view)


def mapped(store: Store, name: str) -> Tensors:
    """A file's tensors where they lie on disk: only the rows that are looked at are read."""
    spans, path = store.spans(name), Path(store.path / name)
    with path.open("rb") as file:
        room = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)  # torch warns of memory it may not write
    if hasattr(mmap, "MADV_RANDOM"):
        room.madvise(mmap.MADV_RANDOM)
    every = torch.frombuffer(room, dtype=torch.uint8)
    return {tensor: every[at.start : at.end].view(at.dtype).view(at.shape) for tensor, at in spans.items()}
