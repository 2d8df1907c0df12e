"""The roles of speculation. Each is a protocol: implementations are siblings that tests exchange freely."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

import torch

from specexec.noise import Noise
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


@dataclass(frozen=True)
class Worth:
    """What one more node is worth. Until costs are measured: a number of nodes, the root not counted; 0 is legal."""

    budget: int


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

    def sync(self, tokens: Sequence[int]) -> None:
        """The cache is to hold exactly `tokens`. Remembers that; evaluates nothing."""

    def forward(self, tree: DraftTree, reader: Reader, first: int = 0) -> None:
        """Evaluates nodes first.., and the tokens missing above node 0 in the same pass.

        Nodes before `first` lie in the cache from an earlier call. Raises ContextFull, and Interrupted between layers; the
        cache then holds a prefix of the synced tokens and nothing of the failed pass, and the call can be made again.
        """


class Drafter(Protocol):
    """Proposes continuations. What it proposes changes the speed, never the text."""

    def draft(self, context: Sequence[int], worth: Worth, sampling: Sampling, noise: Noise) -> DraftTree:
        """A tree whose node 0 is context[-1]; no deeper than the target's context allows."""

    def learn(self, tree: DraftTree, picks: Picks, verdict: Verdict) -> None:
        """The target's picks at every node of `tree`."""

    def meanwhile(self, tree: DraftTree) -> AbstractContextManager[None]:
        """Entered around the target's forward of `tree`."""
