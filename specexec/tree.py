"""A tree of token ids that one target pass evaluates."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt

ROOT = -1  # the parent of a node without one

Children = tuple[dict[int, int], ...]


def children_of(tokens: Sequence[int], parents: Sequence[int]) -> tuple[dict[int, int], Children]:
    """({token: node} without a parent, {token: child} of each node)."""
    roots: dict[int, int] = {}
    children: Children = tuple({} for _ in tokens)
    for node, (token, parent) in enumerate(zip(tokens, parents, strict=True)):
        (roots if parent == ROOT else children[parent])[token] = node
    return roots, children


def ancestor_mask(parents: Sequence[int], last: int) -> npt.NDArray[np.bool_]:
    """bool[last, n] of the last nodes: a row is true at its own node and at every ancestor of it. Parents come first."""
    first = len(parents) - last
    mask = np.zeros((last, len(parents)), dtype=np.bool_)
    for node in range(first, len(parents)):
        row, parent = mask[node - first], parents[node]
        if parent >= first:
            row[:] = mask[parent - first]
        else:
            row[path(parents, parent)] = True
        row[node] = True
    return mask


def path(parents: Sequence[int], node: int) -> list[int]:
    """From the top down to a node, its own included; none for a negative one."""
    found: list[int] = []
    while node > ROOT:
        found.append(node)
        node = parents[node]
    return found[::-1]


def depths(parents: Sequence[int]) -> list[int]:
    """Edges between each node and its root."""
    found: list[int] = []
    for parent in parents:
        found.append(0 if parent == ROOT else found[parent] + 1)
    return found


@dataclass(frozen=True)
class DraftTree:
    """Guesses below the pending token, which is node 0: accepted, but not yet evaluated.

    tokens[n]: ids of the target's vocabulary. parents[n]: parents come first, node 0 has ROOT; siblings carry distinct tokens.
    score[n]: log of the drafter's belief that the walk comes this far, 0 at node 0. source[n]: what proposed the node.
    chance[n]: calibrated probability of the same, or empty where the drafter does not know it.
    """

    tokens: tuple[int, ...]
    parents: tuple[int, ...] = (ROOT,)
    score: tuple[float, ...] = (0.0,)
    source: tuple[str, ...] = ("root",)
    chance: tuple[float, ...] = field(default=())

    def __post_init__(self) -> None:
        if not len(self.tokens) == len(self.parents) == len(self.score) == len(self.source):
            raise ValueError("tokens, parents, score and source differ in length")
        if not self.tokens or self.parents[0] != ROOT or any(not 0 <= p < i for i, p in enumerate(self.parents) if i):
            raise ValueError("node 0 is the only root, and parents come before their children")
        if len({*zip(self.parents, self.tokens, strict=True)}) != len(self.tokens):
            raise ValueError("siblings must carry distinct tokens")

    def __len__(self) -> int:
        return len(self.tokens)

    @cached_property
    def depth(self) -> list[int]:
        return depths(self.parents)

    def path(self, node: int) -> list[int]:
        """The nodes from 0 to `node`."""
        return path(self.parents, node)
