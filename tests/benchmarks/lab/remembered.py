"""A draft without a model: the target's own laws after the same three, two or one tokens, when they were last seen."""

from collections.abc import Iterator, Sequence

import torch

from specexec.roles import Limits, Reader
from specexec.tree import ROOT, DraftTree

LONGEST, KEPT, BLOCK = 3, 32, 64
UNKNOWN = 0.02  # of the probability, shared by all tokens

Entry = tuple[torch.Tensor, torch.Tensor]  # ids int64[KEPT], probabilities fp32[KEPT]


def _before(context: Sequence[int], tree: DraftTree) -> list[tuple[int, ...]]:
    """The last tokens at each node, its own included."""
    found: list[tuple[int, ...]] = []
    for token, parent in zip(tree.tokens, tree.parents, strict=True):
        above = tuple(context[-LONGEST:]) if parent == ROOT else found[parent]
        found.append((*above, token)[-LONGEST:])
    return found


class Remembered:
    """Implements Engine: logits of token recycling (Luo et al. 2024) over three tokens, made a law by some unknown rest."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._context: list[int] = []
        self._after: dict[tuple[int, ...], Entry] = {}

    waited = 0.0

    @property
    def missing(self) -> int:
        return 0

    def sync(self, tokens: Sequence[int]) -> None:
        self._context = list(tokens)

    def forward(self, tree: DraftTree, reader: Reader, first: int = 0) -> None:
        before = _before(self._context, tree)
        for start in range(first, len(tree), BLOCK):
            reader(start, torch.stack([self._row(found) for found in before[start : start + BLOCK]]))

    def learn(self, context: Sequence[int], tree: DraftTree, logits: torch.Tensor, first: int = 0) -> None:
        """The target's logits[n - first, V] at nodes first.. of the tree, whose node 0 is the context's last token."""
        values, ids = logits.softmax(-1).topk(min(KEPT, logits.shape[-1]))
        for before, entry in zip(_before(context[:-1], tree)[first:], zip(ids, values, strict=True), strict=True):
            for key in _keys(before):
                self._after[key] = entry

    def _row(self, before: tuple[int, ...]) -> torch.Tensor:
        size = self.limits.vocabulary
        row = torch.full((size,), UNKNOWN / size)
        entry = next((self._after[key] for key in _keys(before) if key in self._after), None)
        if entry is not None:
            row[entry[0]] += (1 - UNKNOWN) * entry[1]
        return row.log()


def _keys(before: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    """The longest first."""
    for length in range(min(LONGEST, len(before)), 0, -1):
        yield before[-length:]
