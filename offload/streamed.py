"""A store as a source of weights: some layers in memory, the others streamed, the embedding read by rows."""

from collections.abc import Mapping

import torch

from offload.buffer import Buffer
from offload.device_buffer import DeviceBuffer
from offload.device_stream import DeviceStream
from offload.embedding import Embedding
from offload.errors import TooLittleMemory
from offload.folder import EMBEDDING, HEAD
from offload.lane import Device
from offload.piece import Piece
from offload.plan import Placement, gib
from offload.store import Store
from offload.stream import Streamer, Tensors, spread
from offload.told import Told, nobody


def open_streamer(store: Store, placed: Placement, told: Told = nobody) -> Streamer:
    """Reads what stays in memory, opened_bytes in all. Raises DamagedFiles and OffloadError, naming the file."""
    pieces = [Piece.of(store, name) for name in store.layers]
    embedding = Embedding(Piece.of(store, store.embedding), told)
    kept = spread(placed.pinned, len(pieces))
    return Streamer(pieces, resident(store, told), embedding, kept, placed.slots, told=told)


def open_device_stream(
    store: Store, placed: Placement, device: Device, dtype: torch.dtype, told: Told = nobody,
) -> DeviceStream:
    """The same in a device's memory, vectors in `dtype`. Raises TooLittleMemory too, and OffloadError of locking memory."""
    pieces = [Piece.of(store, name) for name in store.layers]
    on_device, pinned = split(placed, len(pieces))
    try:
        moved = {name: tensor.to(device.place, dtype if tensor.dtype == torch.float32 else tensor.dtype)
                 for name, tensor in resident(store, told).items()}
        kept = _kept({index: pieces[index] for index in sorted(on_device)}, device, dtype, told)
        ring = [DeviceBuffer(pieces, device.place, dtype) for _ in range(placed.device_slots)]
    except torch.OutOfMemoryError as error:
        raise TooLittleMemory(f"{device.place} has less memory free than the {gib(placed.device_bytes)} that were planned.",
                              hint="a smaller --vram, or end what else uses the GPU") from error
    embedding = Embedding(Piece.of(store, store.embedding), told)
    host = Streamer(pieces, {}, embedding, pinned, placed.slots, on_device, told)
    return DeviceStream(host, moved, kept, ring, device)


def split(placed: Placement, layers: int) -> tuple[frozenset[int], frozenset[int]]:
    """(layers that stay on the device, layers that stay in memory), either spread over those that do not."""
    on_device = spread(placed.on_device, layers)
    others = [index for index in range(layers) if index not in on_device]
    return on_device, frozenset(others[at] for at in spread(placed.pinned, len(others)))


def _kept(pieces: Mapping[int, Piece], device: Device, dtype: torch.dtype, told: Told) -> dict[int, DeviceBuffer]:
    """A filled buffer for each of the layers."""
    if not pieces:
        return {}
    kept, staging = dict[int, DeviceBuffer](), Buffer(max(piece.size for piece in pieces.values()))
    for index, piece in pieces.items():
        piece.fill(staging, told)
        kept[index] = DeviceBuffer([piece], device.place, dtype)
        device.copies.wait(device.compute.record())
        kept[index].fill(device.copies, piece, staging.bytes[: piece.size])
        device.copies.record().synchronize()
    return kept


def opened_bytes(store: Store, placed: Placement) -> int:
    """What is read before a store can be computed with: what stays, and the embedding, whose checksum is compared."""
    on_device, pinned = split(placed, len(store.layers))
    layers = sum(store.entry(store.layers[index]).nbytes for index in on_device | pinned)
    return layers + resident_bytes(store) + store.entry(store.embedding).nbytes


def resident(store: Store, told: Told = nobody) -> Tensors:
    """Last norm and head; in a tied bf16 store the head is the embedding."""
    tensors = Piece.of(store, store.head).load(told)
    if HEAD not in tensors:
        tensors[HEAD] = Piece.of(store, store.embedding).load(told)[EMBEDDING]
    return tensors


def resident_bytes(store: Store) -> int:
    """What `resident` takes."""
    names = [store.head] if HEAD in store.spans(store.head) else [store.head, store.embedding]
    return sum(store.entry(name).nbytes for name in names)
