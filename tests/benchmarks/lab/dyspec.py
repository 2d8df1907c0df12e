"""The tree grown slot by slot, a token's acceptance taken to be its probability.   DySpec, Xiong et al. 2024

Which slot is filled next depends on tokens drawn before, never on the slot's own, so the text keeps its distribution.
"""

import heapq
from collections.abc import Sequence

from tests.benchmarks.lab.drawn import USED_UP, Drawn, finish, ordered, unrepeated
from tests.benchmarks.lab.ground import Ground
from tests.benchmarks.lab.rows import DraftRows

WIDEST = 64  # siblings
LEAST_BEAM = 4

Slot = tuple[float, int, int]  # -value, node, how many siblings come before


class DySpec:
    """Implements Rule."""

    def __init__(self, ground: Ground, budget: int) -> None:
        self.ground, self.budget = ground, budget

    def teach(self, texts: Sequence[Sequence[int]]) -> None:
        """Measures nothing."""

    def advance(self, context: Sequence[int]) -> list[int]:
        return finish(self.ground, self.draw(context), context, unrepeated)

    def draw(self, context: Sequence[int]) -> Drawn:
        drawn, rows = Drawn(context[-1]), self.ground.rows(context)
        self._order: dict[int, list[int]] = {}
        self._share: dict[int, list[float]] = {}  # {node: q of each token of its order}
        slots: list[Slot] = [(-1.0, 0, 0)]
        while slots and len(drawn) < self.budget:
            slot = heapq.heappop(slots)
            if slot[1] not in drawn.law:
                self._look(drawn, rows, [slot[1], *self._ahead(slots, drawn)])
            self._fill(slots, drawn, slot, self.ground.levels(context))
        return drawn

    def _fill(self, slots: list[Slot], drawn: Drawn, slot: Slot, deepest: int) -> None:
        """Draws the slot's token: with probability q of what is left it is worth v q, and the next sibling v (1 - q)."""
        minus_value, node, older = slot
        shares = self._share[node]
        left = 1.0 - sum(shares[:older])
        q = min(1.0, shares[older] / left)
        child = drawn.add(node, self._order[node][older])
        if drawn.depth[child] < deepest:
            heapq.heappush(slots, (minus_value * q, child, 0))
        if older + 1 < len(shares) and left - shares[older] > USED_UP:
            heapq.heappush(slots, (minus_value * (1 - q), node, older + 1))

    def _look(self, drawn: Drawn, rows: DraftRows, nodes: list[int]) -> None:
        q = self.ground.q(rows.at(nodes, drawn.tokens, drawn.parents))
        order = ordered(self.ground, q, WIDEST)
        for node, law, tokens, shares in zip(nodes, q, order.tolist(), q.gather(1, order).tolist(), strict=True):
            drawn.law[node], self._order[node], self._share[node] = law, tokens, shares

    def _ahead(self, slots: list[Slot], drawn: Drawn) -> list[int]:
        """The best nodes that wait for the draft: looking at them early saves passes and changes no value."""
        waiting = (slot for slot in slots if slot[1] not in drawn.law)
        return [slot[1] for slot in heapq.nsmallest(max(LEAST_BEAM, self.budget // 4), waiting)]
