"""What a draft model has evaluated below a context: rows of its engine's tree, in its order, and what it found at each."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from specexec.drafters.belief import Candidates
from specexec.online import Ids, Vector
from specexec.tree import ROOT


@dataclass(frozen=True, eq=False)
class Row:
    """token: the target's id. scores: of the candidates, as it was believed then. before: the last tokens, its own included.

    logits: fp32[V] of the draft as it is, at the temperature, where there was room to keep them; and their log-sum-exp.
    """

    token: int
    parent: int
    candidates: Candidates
    scores: Vector
    before: tuple[int, ...]
    logits: torch.Tensor | None
    log_sum_exp: float

    def log_q(self, ids: Ids) -> Vector | None:
        """Of some of them; None where the logits were not kept."""
        if self.logits is None:
            return None
        if self.logits.is_cpu:
            return self.logits.numpy()[ids].astype(np.float64) - self.log_sum_exp
        some = self.logits.index_select(0, torch.from_numpy(ids).to(self.logits.device))
        return some.cpu().double().numpy() - self.log_sum_exp


class Evaluated:
    """Rows, parents first."""

    def __init__(self, rows: Sequence[Row] = ()) -> None:
        self.rows: list[Row] = []
        self._child: dict[tuple[int, int], int] = {}
        for row in rows:
            self.add(row)

    def __len__(self) -> int:
        return len(self.rows)

    def add(self, row: Row) -> int:
        self._child[row.parent, row.token] = len(self.rows)
        self.rows.append(row)
        return len(self.rows) - 1

    def child(self, parent: int, token: int) -> int | None:
        """The row below another, or below nothing for ROOT."""
        return self._child.get((parent, token))

    def below(self, tokens: Sequence[int]) -> "Evaluated":
        """What hangs at the end of `tokens`, which lead down from row 0; empty where they lead nowhere."""
        end: int | None = 0 if self.rows else None
        for token in tokens:
            end = None if end is None else self.child(end, token)
        if end is None:
            return Evaluated()
        place = {end: 0}
        for at in range(end + 1, len(self.rows)):
            if self.rows[at].parent in place:
                place[at] = len(place)
        return Evaluated([replace(self.rows[at], parent=place.get(self.rows[at].parent, ROOT)) for at in place])
