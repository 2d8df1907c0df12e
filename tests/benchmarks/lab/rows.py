"""Rows of logits below the nodes of a tree, for rules that want to see all of them."""

from collections.abc import Sequence

import torch

from specexec.roles import Engine
from specexec.tree import ROOT, DraftTree
from specexec.vocabulary import Vocabulary


def tree_of(tokens: Sequence[int], parents: Sequence[int]) -> DraftTree:
    """A tree whose scores nobody asks for."""
    return DraftTree(tuple(tokens), tuple(parents), (0.0,) * len(tokens), ("",) * len(tokens))


def chain_of(tokens: Sequence[int]) -> DraftTree:
    return tree_of(tokens, range(ROOT, len(tokens) - 1))


def evaluate(engine: Engine, tree: DraftTree, first: int = 0) -> torch.Tensor:
    """fp32[n - first, V]: the engine's logits at nodes first.."""
    blocks: list[torch.Tensor] = []
    engine.forward(tree, lambda _, logits: blocks.append(logits.clone()), first)
    return torch.cat(blocks)


class DraftRows:
    """The draft's logits at nodes of a tree that still grows; ids and columns are the target's.

    context: token ids, the last of which is node 0.
    """

    def __init__(self, engine: Engine, vocabulary: Vocabulary, context: Sequence[int]) -> None:
        self.engine, self.vocabulary = engine, vocabulary
        self.row: dict[int, int] = {}  # {node: row of the engine's tree}
        engine.sync(vocabulary.to_draft(context[:-1]))

    def at(self, nodes: Sequence[int], tokens: Sequence[int], parents: Sequence[int]) -> torch.Tensor:
        """fp32[k, V] at `nodes`, whose parents were looked at before; tokens and parents are the whole tree's."""
        first = len(self.row)
        self.row.update({node: first + i for i, node in enumerate(nodes)})
        above = [ROOT if parents[node] == ROOT else self.row[parents[node]] for node in self.row]
        tree = tree_of(self.vocabulary.to_draft([tokens[node] for node in self.row]), above)
        return self.vocabulary.to_target(evaluate(self.engine, tree, first))
