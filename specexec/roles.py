"""The roles of speculation. Each is a protocol: implementations are siblings that tests exchange freely."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch

from specexec.noise import Noise
from specexec.online import Vector
from specexec.sampling import Sampling
from specexec.tree import DraftTree
from specexec.verify import Picks, Verdict

Reader = Callable[[int, torch.Tensor], None]
"""reader(first, logits): rows fp32[k, V], k <= 64, of the tree's nodes first..first + k - 1; valid during the call."""


@dataclass(frozen=True)
class Limits:
    context: int  # positions
    tree: int  # nodes of one tree, node 0 included
    vocabulary: int  # ids the tokenizer can produce; padded ones beyond are never shown to anybody
    chunk: int = 0  # tokens of a prompt that one pass reads, where they are more than the tree's


@dataclass(frozen=True, eq=False)
class Worth:
    """What nodes and seconds are worth.

    budget: nodes at the most, the root not counted; 0 is legal. rate: tokens that a second must bring; 0: time is no object.
    costs[n]: tokens that a pass with n nodes below the root must bring, n <= budget; None: all alike. spare: seconds that may
    be spent on looking whether drafting pays, where it did not. passes: for which all of this is known to stand.
    """

    budget: int
    rate: float = 0.0
    costs: Vector | None = None
    spare: float = 0.0
    passes: int = 1

    def within(self, room: int) -> "Worth":
        """The same of `room` nodes at most."""
        if room >= self.budget:
            return self
        return replace(self, budget=room, costs=None if self.costs is None else self.costs[: room + 1])

    def size(self, chances: Vector) -> int:
        """How many of the best nodes to take, whose chances[<= budget] these are, best first."""
        return self.taken(chances)[0]

    def taken(self, chances: Vector) -> tuple[int, float]:
        """That number, and the tokens that one more node must bring, as one of as many more as make it cheapest.

        Where the tree brings more a second than `rate`, time is worth as much: a rate is not known at once. A second token may
        cost a pass more than the next ten together: who asks for its price alone never gets there.
        """
        if self.costs is None:
            return len(chances), 0.0
        tokens = np.concatenate(([1.0], 1.0 + np.cumsum(chances)))
        costs = self.costs * max(1.0, float((tokens / self.costs[: len(tokens)]).max()))
        size = int(np.argmax(tokens - costs[: len(tokens)]))
        more = costs[size + 1 :] - costs[size]
        return size, float((more / np.arange(1, len(more) + 1)).min()) if len(more) else 0.0


class WeightSource(Protocol):
    """A model's tensors, wherever they are kept. Names are those within the layer, or within the model."""

    def resident(self) -> Mapping[str, torch.Tensor]:
        """Last norm and head, or the embedding where the head is tied to it; the embedding may be here in any case."""

    def embed(self, tokens: Sequence[int]) -> torch.Tensor:
        """The embedding's rows [n, width], in the dtype and on the device where it is kept."""

    def layer(self, index: int) -> AbstractContextManager[Mapping[str, torch.Tensor]]:
        """Layer `index`'s tensors, on the engine's device and in its dtype, valid inside the context.

        A mapping that is handed out again means the same places in memory, whatever they hold by then.
        """


class Engine(Protocol):
    """A model and its KV cache."""

    @property
    def limits(self) -> Limits: ...

    @property
    def missing(self) -> int:
        """Tokens that the next forward has to evaluate above node 0."""

    @property
    def waited(self) -> float:
        """Seconds that its passes have waited for weights, keys and values, in all; 0 where nobody knows."""

    def sync(self, tokens: Sequence[int]) -> None:
        """The cache is to hold exactly `tokens`. Remembers that; evaluates nothing."""

    def forward(self, tree: DraftTree, reader: Reader, first: int = 0) -> None:
        """Evaluates nodes first.., and the tokens missing above node 0 in the same pass.

        Nodes before `first` lie in the cache from an earlier call. Raises ContextFull, and Interrupted between layers; the
        cache then holds a prefix of the synced tokens and nothing of the failed pass, and the call can be made again.
        """


class Target(Engine, Protocol):
    """A model whose text is wanted."""

    def extend(self, token: int, pick: Callable[[torch.Tensor], int | None], seconds: float) -> None:
        """Passes of one token each below the synced ones, all of which are evaluated: `token`, then what was picked.

        pick: of logits fp32[1, vocabulary], valid until it returns, the next token; None ends it, and so do so many seconds
        and the context's last position. Raises what `forward` does, before the pass is picked from.
        """


class Budget(Protocol):
    """Says what nodes are worth, and learns what they cost."""

    def worth(self, missing: int) -> Worth:
        """For the next pass, which evaluates so many tokens above node 0."""

    def learn(self, pass_: "Pass") -> None:
        """What a pass was like."""

    def wake(self) -> None:
        """The text has changed: drafting that did not pay may pay now."""


@dataclass(frozen=True)
class Pass:
    """missing, nodes: tokens that were evaluated above node 0, and the tree's, node 0 included. tokens: that it brought."""

    missing: int
    nodes: int
    tokens: int
    draft_seconds: float
    seconds: float  # all others, from one pass to the next
    waited: float = 0.0  # of these, for weights


class Idle(Protocol):
    """Where passes wait for weights."""

    def filled(self, work: Callable[[float], bool]) -> AbstractContextManager[None]:
        """Inside, a pass that would wait calls `work` instead, with the seconds that it has for it, until it returns False."""


class Drafter(Protocol):
    """Proposes continuations. What it proposes changes the speed, never the text."""

    def draft(self, context: Sequence[int], worth: Worth, sampling: Sampling, noise: Noise) -> DraftTree:
        """A tree whose node 0 is context[-1]; no deeper than the target's context allows."""

    def learn(self, tree: DraftTree, picks: Picks, verdict: Verdict) -> None:
        """The target's picks at every node of `tree`."""

    def meanwhile(self, tree: DraftTree) -> AbstractContextManager[None]:
        """Entered around the target's forward of `tree`."""
