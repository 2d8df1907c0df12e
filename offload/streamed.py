"""A store as a source of weights: some layers in memory, the others streamed, the embedding read by rows."""

from offload.embedding import Embedding
from offload.folder import EMBEDDING, HEAD
from offload.piece import Piece
from offload.plan import Placement
from offload.store import Store
from offload.stream import Streamer, Tensors, spread


def open_streamer(store: Store, placed: Placement) -> Streamer:
    """Reads what stays in memory. Raises DamagedFiles and OffloadError, naming the file."""
    pieces = [Piece.of(store, name) for name in store.layers]
    embedding = Embedding(Piece.of(store, store.embedding))
    return Streamer(pieces, resident(store), embedding, spread(placed.pinned, len(pieces)), placed.slots)


def resident(store: Store) -> Tensors:
    """Last norm and head; in a tied bf16 store the head is the embedding."""
    tensors = Piece.of(store, store.head).load()
    if HEAD not in tensors:
        tensors[HEAD] = Piece.of(store, store.embedding).load()[EMBEDDING]
    return tensors


def resident_bytes(store: Store) -> int:
    """What `resident` takes."""
    names = [store.head] if HEAD in store.spans(store.head) else [store.head, store.embedding]
    return sum(store.entry(name).nbytes for name in names)
