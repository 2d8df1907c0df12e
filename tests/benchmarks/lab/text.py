"""What the target writes by itself. A rule whose tokens depend on the target alone writes this, whatever its tree."""

from collections.abc import Sequence

import torch

from specexec.noise import Noise
from specexec.roles import Engine
from specexec.top import winner
from specexec.tree import DraftTree, children_of
from tests.benchmarks.lab.rows import evaluate


class Text:
    """The prompt and its continuation, by position; grows as far as it is asked for."""

    def __init__(self, target: Engine, prompt: Sequence[int], temperature: float, noise: Noise) -> None:
        self.target, self.temperature, self.noise = target, temperature, noise
        self.tokens = list(prompt)

    def at(self, position: int) -> int:
        while len(self.tokens) <= position:
            self.target.sync(self.tokens[:-1])
            self.tokens.append(self._pick(evaluate(self.target, DraftTree((self.tokens[-1],)))))
        return self.tokens[position]

    def _pick(self, logits: torch.Tensor) -> int:
        return winner(logits / (self.temperature or 1.0) + self.noise.at(len(self.tokens))).token[0]

    def follow(self, context: Sequence[int], tree: DraftTree) -> list[int]:
        """The tokens that a pass over `tree` adds: those of its path that is this text, and one more."""
        node, found, children = 0, [self.at(len(context))], children_of(tree.tokens, tree.parents)[1]
        while found[-1] in children[node]:
            node = children[node][found[-1]]
            found.append(self.at(len(context) + len(found)))
        return found
