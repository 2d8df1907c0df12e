"""Memory of a device that holds one layer at a time: the bytes of its file, and its vectors in the dtype computed in."""

from collections.abc import Mapping

import torch

from offload.buffer import Span
from offload.lane import Lane
from offload.piece import Piece
from offload.stream import Tensors

Spans = Mapping[str, Span]


def vectors(spans: Spans, dtype: torch.dtype) -> dict[str, Span]:
    """Those stored in fp32 that are computed with in another dtype, by where they lie once cast."""
    found, at = dict[str, Span](), 0
    for name, span in spans.items():
        if span.dtype == torch.float32 != dtype:
            size = (span.end - span.start) // 4 * dtype.itemsize
            found[name] = Span(dtype, span.shape, at, at + size)
            at += -(-size // 64) * 64
    return found


def cast_bytes(spans: Spans, dtype: torch.dtype) -> int:
    """Of a layer's vectors in `dtype`."""
    return max((span.end for span in vectors(spans, dtype).values()), default=0)


class DeviceBuffer:
    """Room for each of `pieces`, one at a time."""

    def __init__(self, pieces: list[Piece], place: torch.device, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self._bytes = torch.empty(max(piece.size for piece in pieces), dtype=torch.uint8, device=place)
        cast = max(cast_bytes(piece.spans, dtype) for piece in pieces)
        self._cast = torch.empty(cast, dtype=torch.uint8, device=place)
        self._views: dict[int, Tensors] = {}  # by layout of the file

    @property
    def nbytes(self) -> int:
        return self._bytes.nbytes + self._cast.nbytes

    def fill(self, lane: Lane, piece: Piece, of: torch.Tensor) -> None:
        """Queues the copy of a file's bytes `of`, and the rounding of its vectors behind it."""
        lane.copy(self._bytes[: piece.size], of)
        tensors = self.tensors(piece.spans)
        for name in vectors(piece.spans, self.dtype):
            lane.copy(tensors[name], _view(self._bytes, piece.spans[name]))

    def tensors(self, spans: Spans) -> Tensors:
        """The same mapping for the same places in memory."""
        key = hash(tuple(spans.items()))
        if key not in self._views:
            rounded = vectors(spans, self.dtype)
            self._views[key] = {name: _view(self._cast, rounded[name]) if name in rounded else _view(self._bytes, span)
                                for name, span in spans.items()}
        return self._views[key]


def _view(memory: torch.Tensor, at: Span) -> torch.Tensor:
    return memory[at.start : at.end].view(at.dtype).view(at.shape)
