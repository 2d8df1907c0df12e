"""The tree with the most expected tokens, where a node's k-th child is the first accepted one with probability p_k.

Sequoia, Chen et al. 2024: T[l][m][b] = the best value of m nodes, l levels, b children of the root
= max_y T[l][y][b - 1] + p_b max_b' T[l - 1][m - y][b'].
"""

from collections.abc import Sequence
from functools import cached_property

import numpy as np
import numpy.typing as npt

Shape = tuple["Shape", ...]  # the shapes below a node, its first child's first
Values = npt.NDArray[np.float64]

LEAST_GAIN = 1e-6  # tokens that a further level must be able to add


def value(shape: Shape, p: Sequence[float]) -> float:
    """Expected tokens of a pass."""
    return 1.0 + sum(chance * value(child, p) for chance, child in zip(p, shape, strict=False))


def size(shape: Shape) -> int:
    """Nodes, the root counted."""
    return 1 + sum(map(size, shape))


def levels(shape: Shape) -> int:
    return 1 + max(map(levels, shape)) if shape else 0


class Best:
    """All best shapes of up to `nodes` nodes, the root counted, and `deepest` levels below it."""

    def __init__(self, p: Sequence[float], nodes: int, deepest: int) -> None:
        self.p, self.nodes = p, nodes
        self._splits: list[list[npt.NDArray[np.int64]]] = [[]]  # [level][b - 1][m]: nodes left of the b-th child
        self._widest: list[npt.NDArray[np.int64]] = [np.zeros(nodes + 1, dtype=np.int64)]  # [level][m]: children of the root
        best = np.where(np.arange(nodes + 1) == 1, 1.0, -np.inf)
        for _ in range(deepest):
            deeper = self._level(best)
            if deeper[nodes] < best[nodes] + LEAST_GAIN:
                break
            best = deeper

    @cached_property
    def shape(self) -> Shape:
        return self._shape(len(self._splits) - 1, self.nodes)

    def _level(self, below: Values) -> Values:
        """[m] of the best values with one level more than those of `below`."""
        tables = [np.where(np.arange(self.nodes + 1) == 1, 1.0, -np.inf)]
        splits: list[npt.NDArray[np.int64]] = []
        possible = np.isfinite(below)
        for chance in self.p[: self.nodes - 1]:
            split, table = _add_child(tables[-1], np.where(possible, chance * np.where(possible, below, 0.0), -np.inf))
            splits.append(split)
            tables.append(table)
        self._splits.append(splits)
        self._widest.append(np.argmax(tables, 0))
        return np.max(tables, 0)  # type: ignore[no-any-return]

    def _shape(self, level: int, nodes: int) -> Shape:
        children: list[Shape] = []
        for b in range(int(self._widest[level][nodes]), 0, -1):
            left = int(self._splits[level][b - 1][nodes])
            children.append(self._shape(level - 1, nodes - left))
            nodes = left
        return tuple(children[::-1])


def _add_child(left: Values, child: Values) -> tuple[npt.NDArray[np.int64], Values]:
    """(y, value) [m]: the best way to share m nodes between the older children's y and one more child's m - y."""
    m, y = np.ogrid[: len(left), : len(left)]
    sums = np.where(y < m, left[y] + child[np.maximum(m - y, 0)], -np.inf)
    split = sums.argmax(1)
    return split, sums[np.arange(len(left)), split]
