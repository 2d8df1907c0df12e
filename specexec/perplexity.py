"""How well a model knows a text: minus the log probability of each token after all before it."""

from collections.abc import Sequence

import torch
from torch.nn import functional

from specexec.engines.tree_engine import TreeEngine
from specexec.tree import ROOT, DraftTree


def nats(engine: TreeEngine, ids: Sequence[int]) -> torch.Tensor:
    """fp64[len(ids) - 1], of ids[1:]; passes are as large as the engine's largest tree. Raises what its passes raise."""
    found, most = torch.empty(len(ids) - 1, dtype=torch.float64), engine.limits.tree
    engine.cache.truncate(0)
    for start in range(0, len(found), most):
        _fill(engine, ids, start, found[start : start + most])
    return found


def _fill(engine: TreeEngine, ids: Sequence[int], start: int, to: torch.Tensor) -> None:
    """Those of the tokens that follow start, start + 1, ..."""
    n = len(to)
    wanted = torch.tensor(ids[start + 1 : start + 1 + n])

    def reader(first: int, logits: torch.Tensor) -> None:
        rows = slice(first, first + len(logits))
        to[rows] = functional.cross_entropy(logits.double(), wanted[rows].to(logits.device), reduction="none").cpu()

    engine.sync(ids[:start])
    engine.forward(DraftTree(tuple(ids[start : start + n]), tuple(range(ROOT, n - 1)), (0.0,) * n, ("text",) * n), reader)
