"""Random weights in the formats of files, as fast as a disk takes them: every bit but those of exponents is random."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]

CHUNK = 2**24  # bytes drawn at a time


@dataclass(frozen=True)
class Half:
    """A float of 16 bits: how many of them are fraction, and what is added to its exponent."""

    fraction: int
    bias: int

    def confine(self, pairs: Bytes, size: float) -> None:
        """Random [n, 2] to numbers of either sign with root mean square near `size`, subnormal ones left out."""
        exponent = max(1, self.bias + math.floor(math.log2(size / 1.1)))  # from 1 to 2, twice that of 1.53
        bits = pairs.view("<u2")
        bits &= np.uint16(1 << 15 | (1 << self.fraction) - 1)
        bits |= np.uint16(exponent << self.fraction)


FP16, BF16 = Half(10, 15), Half(7, 127)


class Noise:
    """Draws matrices whose products with a vector keep its size, roughly, in pieces of CHUNK at most."""

    def __init__(self, seed: int = 0) -> None:
        self._generator = np.random.Generator(np.random.SFC64(seed))

    def q4_0(self, rows: int, columns: int) -> Iterator[Bytes]:
        """Blocks of 32 weights: an fp16 scale, then 32 nibbles less 8 (root mean square 4.64)."""
        for blocks in self._blocks(rows * columns // 32, 18):
            FP16.confine(blocks[:, :2], columns**-0.5 / 4.64)
            yield blocks

    def q6_k(self, rows: int, columns: int) -> Iterator[Bytes]:
        """Blocks of 256 weights: 6 bits less 32 (18.5), 16 scales of 8 bits (74), then an fp16 scale.

        Wide rows grow a vector, up to 12 times: no normal fp16 is small enough for less.
        """
        for blocks in self._blocks(rows * columns // 256, 210):
            FP16.confine(blocks[:, 208:], columns**-0.5 / 18.5 / 74)
            yield blocks

    def bf16(self, rows: int, columns: int) -> Iterator[Bytes]:
        for pairs in self._blocks(rows * columns, 2):
            BF16.confine(pairs, columns**-0.5)
            yield pairs

    def _blocks(self, count: int, size: int) -> Iterator[Bytes]:
        """[n, size] until `count` have been drawn."""
        while count:
            n = min(count, CHUNK // size)
            words = self._generator.integers(0, 2**64 - 1, -(-n * size // 8), dtype=np.uint64, endpoint=True)
            yield words.view(np.uint8)[: n * size].reshape(n, size)
            count -= n
