"""A GGUF model on llama.cpp, which has no trees: every leaf's path is a sequence of its unified KV cache."""

from collections.abc import Callable, Sequence

import torch

from specexec.engines.llamacpp import Model
from specexec.engines.llamacpp_context import Context, Room
from specexec.engines.tree_engine import TreeEngine
from specexec.kv.sequences import MOST, Sequences, positions
from specexec.roles import Limits

CHUNK = MOST  # tokens of a prompt that a pass reads
ROUNDING = {True: 1e-4, False: 0.1}  # of fp32 weights, of others: as in device.py


class LlamacppEngine(TreeEngine):
    """Implements Target.

    vocabulary: ids that the tokenizer can produce. cell_bytes: of keys and values of one position. wide: weights are fp32, and
    so are they. tree: nodes, 2 to MOST: one more than there can be leaves for.
    """

    def __init__(
        self, model: Model, vocabulary: int, context: int, cell_bytes: int, threads: int, wide: bool,
        stop: Callable[[], bool] = lambda: False, tree: int = MOST,
    ) -> None:
        limits = Limits(context, tree, min(vocabulary, model.vocabulary), CHUNK)
        rows = tree + CHUNK  # a tree, and what is missing above it
        room = Room(context + rows, cell_bytes, rows, tree, limits.vocabulary, threads, wide, model.gpu_layers != 0)
        self.context = Context(model, room, stop)
        self.sequences = Sequences(self.context, tree)
        super().__init__(self.sequences, limits, ROUNDING[wide], torch.device("cpu"))

    def _states(self, tokens: Sequence[int], parents: Sequence[int], root: int | None) -> torch.Tensor:
        at = positions(self.sequences.length, parents)[-len(tokens) :]
        try:
            sequences = self.sequences.begin(parents)
            return self.context.evaluate(tokens, at, sequences, 0 if root is None else len(tokens) - root)
        except BaseException:
            self.sequences.forget()
            raise

    def _extended(self, token: int) -> torch.Tensor:
        try:
            logits = self.context.evaluate((token,), (self.sequences.length,), self.sequences.lone(), 1)
        except BaseException:
            self.sequences.forget()
            raise
        self.sequences.append(token)
        self.passes += 1
        return logits

    def _logits(self, states: torch.Tensor) -> torch.Tensor:
        return states
