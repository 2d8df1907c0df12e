"""The embedding of a store: on disk, but for the rows that are looked at."""

import os
from collections.abc import Sequence

import torch
import xxhash

from offload.buffer import Buffer
from offload.direct import AGAIN, BLOCK, DirectFile, check_size, failed
from offload.errors import DamagedFiles
from offload.piece import Piece
from offload.told import Told, nobody


class Embedding:
    """Reads all of its file when opened, to compare the checksum, and then rows by position.

    Reads, not a map: a disk's error, or an end that comes too soon, is then an error and not the end of the process.
    why_plain: as a DirectFile's. Raises DamagedFiles and OffloadError, naming the file.
    """

    def __init__(self, piece: Piece, told: Told = nobody) -> None:
        self.piece = piece
        (self._span,) = piece.spans.values()
        self.why_plain = self._check(told)
        try:
            self._descriptor = os.open(piece.path, os.O_RDONLY)
            if hasattr(os, "posix_fadvise"):
                os.posix_fadvise(self._descriptor, 0, 0, os.POSIX_FADV_RANDOM)  # a row's neighbours are of no use
        except OSError as error:
            raise failed(piece.path, 0, error) from error

    def rows(self, tokens: Sequence[int]) -> torch.Tensor:
        """[n, width] of the stored dtype."""
        check_size(self._descriptor, self.piece.path, self.piece.size)
        out = torch.empty(len(tokens), self._span.shape[1], dtype=self._span.dtype)
        for token, row in zip(tokens, out.view(torch.uint8).numpy(), strict=True):
            if not 0 <= token < self._span.shape[0]:
                raise DamagedFiles(f"{self.piece.path} has no row {token:,}.", hint=AGAIN)
            self._read(row.data, self._span.start + token * len(row))
        return out

    def close(self) -> None:
        os.close(self._descriptor)

    def _check(self, told: Told) -> str | None:
        """Why the file was not read past the page cache, or None."""
        file, room = DirectFile(self.piece.path), Buffer(BLOCK)
        try:
            file.check_size(self.piece.size)
            digest, done = xxhash.xxh3_64(), 0
            while done < self.piece.size:
                part = room.view[: min(BLOCK, self.piece.size - done)]
                got = file.read_block(part, done)
                digest.update(part[:got])
                done += got
                told(got)
            self.piece.compare(digest)
        finally:
            file.close()
        return file.why_plain

    def _read(self, row: memoryview, start: int) -> None:
        done = 0
        while done < len(row):
            try:
                got = os.preadv(self._descriptor, [row[done:]], start + done)
            except OSError as error:
                raise failed(self.piece.path, start + done, error) from error
            if not got:
                raise DamagedFiles(f"{self.piece.path} ends at byte {start + done:,}.", hint=AGAIN)
            done += got
