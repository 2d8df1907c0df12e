"""A streamed model's weights for who drafts with it: nothing of them streams."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from offload.manifest import copy_name
from offload.piece import Piece
from offload.store import Store
from offload.stream import Streamer, Tensors


class LowBit:
    """Implements the engine's WeightSource: a streamer's layers where they stay in memory, and copies of the others.

    Raises DamagedFiles and OffloadError, naming the file.
    """

    def __init__(self, store: Store, streamer: Streamer) -> None:
        self._streamer = streamer
        away = [index for index in range(len(streamer.pieces)) if streamer.disk_bytes(index)]
        self._pieces = {index: Piece.of(store, copy_name(index)) for index in away}
        self._copies: dict[int, Tensors] = {index: piece.load() for index, piece in self._pieces.items()}

    @property
    def nbytes(self) -> int:
        """Beside the streamer's."""
        return sum(piece.size for piece in self._pieces.values())

    def resident(self) -> Tensors:
        return self._streamer.resident()

    def embed(self, tokens: Sequence[int]) -> torch.Tensor:
        return self._streamer.embed(tokens)

    @contextmanager
    def layer(self, index: int) -> Iterator[Tensors]:
        if index in self._copies:
            yield self._copies[index]
            return
        with self._streamer.layer(index) as tensors:
            yield tensors
