"""An engine that hands out precomputed rows of a large vocabulary: what is timed around it is our own code alone."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from specexec.engines.tree_engine import READER_ROWS
from specexec.roles import Limits, Reader
from specexec.tree import DraftTree


def logits(vocabulary: int, rows: int, seed: int) -> torch.Tensor:
    """fp32[rows, V]: Zipf-like laws of about two nats over permuted ids."""
    random = torch.Generator().manual_seed(seed)
    falling = -1.6 * torch.arange(1, vocabulary + 1).log()
    return torch.stack([falling[torch.randperm(vocabulary, generator=random)] for _ in range(rows)])


@dataclass
class Fake:
    """Implements Engine. seconds: spent on gathering rows and on pretending, which a real engine's head would take.

    A node's row depends on its position and token alone, so two fakes with rows alike agree as often as the rows do.
    """

    rows: torch.Tensor  # fp32[R, V]
    block: int = READER_ROWS  # rows handed out at a time
    seconds: float = 0.0
    read: int = 0  # bytes of logits handed out
    _start: int = field(default=0, repr=False)

    @property
    def limits(self) -> Limits:
        return Limits(1 << 20, 1 << 14, self.rows.shape[1])

    waited = 0.0

    @property
    def missing(self) -> int:
        return 0

    def sync(self, tokens: Sequence[int]) -> None:
        self._start = len(tokens)

    def forward(self, tree: DraftTree, reader: Reader, first: int = 0) -> None:
        for start in range(first, len(tree), self.block):
            began = time.perf_counter()
            nodes = range(start, min(start + self.block, len(tree)))
            block = self.rows[[self._row(tree, node) for node in nodes]]
            self.seconds += time.perf_counter() - began
            self.read += block.nbytes
            reader(start, block)

    def _row(self, tree: DraftTree, node: int) -> int:
        return (31 * (self._start + tree.depth[node]) + 17 * tree.tokens[node]) % len(self.rows)
