"""The promise of KernelEngine: a node's logits are, to the last bit, those of plain decoding along its own path.

Plain decoding evaluates one token a pass, in an engine of its own on one thread. What it is compared with has any tree, any
border between prefix and tree, prefills in chunks, rebases with survivors, truncations, calls in two parts, two threads.
"""

import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from specexec.errors import Interrupted
from specexec.formats import KINDS
from specexec.tree import ROOT, DraftTree
from tests.kernels import SETS, threads, using
from tests.models import VOCABULARY, chain, ids, read, save, tree_of, trees
from tests.quantised import Plain, engine
from tests.specexec.engines.test_parity import PROMPT, TREE, Play, Turn, prompts, scripts

pytestmark = pytest.mark.usefixtures("compiled")

CONTEXT, PROMPTS = 1024, 260
_scratch = tempfile.TemporaryDirectory(prefix="tiny-quantised-")
families = pytest.mark.parametrize("family", ["llama", "qwen2", "qwen2-mixed", "qwen3", "mistral"])
kinds, activations, counts = st.sampled_from(list(KINDS)), st.sampled_from([8, 16]), st.sampled_from([1, 2])
largest = st.sampled_from([5, 64, 2048])
Script = list[Turn]


@cache
def folder(family: str, context: int = CONTEXT) -> Path:
    return save(family, Path(_scratch.name) / f"{family}-{context}", max_position_embeddings=context)


@cache
def plain(family: str, kind: str, bits: int) -> Plain:
    return Plain(engine(folder(family), kind, bits))


class Exact(Play):
    """Turns whose every tree must have plain decoding's logits, bit by bit."""

    def __init__(self, target: Any, wanted: Plain, tokens: list[int], tree: DraftTree, count: int) -> None:
        self.wanted, self.count = wanted, count
        super().__init__(Path(), target, tokens, tree)

    def show(self, first: int) -> None:
        self.target.sync(self.tokens)
        with threads(self.count):
            found = read(self.target, self.tree, first)
        with threads(1):
            wanted = self.wanted.at(self.tokens, self.tree, first)
        assert torch.equal(found, wanted)


def below(size: int, reach: int, seed: int) -> DraftTree:
    """A tree of at most `size` nodes, each below one of the `reach` nodes before it: 1 makes a chain, many a bush."""
    random = torch.Generator().manual_seed(seed)
    parents, tokens, taken = [ROOT], [seed % VOCABULARY], set()
    for _ in range(1, size):
        back, token = (int(torch.randint(high, (1,), generator=random)) for high in (reach, VOCABULARY))
        parent = max(0, len(tokens) - 1 - back)
        if (parent, token) not in taken:
            taken.add((parent, token))
            parents.append(parent)
            tokens.append(token)
    return tree_of(tokens, parents)


def text(length: int) -> list[int]:
    return [(7 * i * i + 3 * i + i // 5) % VOCABULARY for i in range(length)]


large_trees = st.builds(below, st.integers(1, 256), st.sampled_from([1, 2, 6, 40, 256]), st.integers(0, 1000))
far_turns = st.builds(
    Turn, st.sampled_from(["accept", "descend", "grow", "cut", "diverge"]), st.integers(0, 300),
    st.one_of(st.just(0), st.integers(1, 255)), st.lists(ids, max_size=70),
    st.lists(st.tuples(st.integers(0, 300), ids), max_size=40), ids,
)


@families
@settings(max_examples=40)
@given(kind=kinds, bits=activations, count=counts, most=largest, prompt=prompts, tree=trees, script=scripts)
def test_any_script_of_turns(
    family: str, kind: str, bits: int, count: int, most: int, prompt: list[int], tree: DraftTree, script: Script
) -> None:
    target = engine(folder(family), kind, bits, largest_tree=most)
    play = Exact(target, plain(family, kind, bits), prompt, tree, count)
    for turn in script:
        play.take(turn)


@families
@settings(max_examples=10)
@given(kind=kinds, bits=activations, count=counts, most=largest, length=st.integers(0, PROMPTS), tree=large_trees,
       script=st.lists(far_turns, max_size=3))
def test_large_trees_below_long_texts(
    family: str, kind: str, bits: int, count: int, most: int, length: int, tree: DraftTree, script: Script
) -> None:
    target = engine(folder(family), kind, bits, largest_tree=most)
    play = Exact(target, plain(family, kind, bits), text(length), tree, count)
    for turn in script:
        play.take(turn)


@families
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bits", [8, 16])
def test_any_number_of_nodes_and_any_border(family: str, kind: str, bits: int) -> None:
    """The same path as a chain: every length of it, and every token of it first of the tree; on one thread some of them."""
    wanted = plain(family, kind, bits)
    tokens = text(150)
    rows = torch.stack([wanted.after(tokens[: i + 1]) for i in range(len(tokens))])
    for count, step in ((1, 4), (2, 1)):
        target = engine(folder(family), kind, bits)
        with threads(count):
            for start, end in [(0, n) for n in range(1, 151, step)] + [(i, 150) for i in range(1, 150, 3 * step)]:
                target.sync(tokens[:start])
                assert torch.equal(read(target, chain(*tokens[start:end])), rows[start:end]), (start, end)


@pytest.mark.parametrize("isa", SETS)
@pytest.mark.parametrize(("kind", "bits"), [("nf4", 8), ("int8", 16)])
def test_every_instruction_set_keeps_the_promise(isa: str, kind: str, bits: int) -> None:
    with using(isa):
        wanted, target = (engine(folder("qwen2-mixed"), kind, bits) for _ in range(2))
        play = Exact(target, Plain(wanted), text(100), below(120, 6, 1), 2)
        play.take(Turn("descend", 3, 5, [], [(0, 1), (1, 2), (1, 3)], 4))
        play.take(Turn("accept", 7, 3, text(30), [(0, 5), (0, 6), (2, 7)], 9))


@pytest.mark.parametrize("family", ["llama", "mistral"])
def test_texts_longer_than_a_chunk_of_attention(family: str) -> None:
    """Prefilled in pieces of any size, on one thread or two: the tree after it has the bits of plain decoding."""
    long, tokens, tree = folder(family, 8192), text(4120), below(60, 6, 2)
    wanted = Plain(engine(long, "nf4", 8)).at(tokens, tree)
    for count, most in ((1, 2048), (2, 700), (2, 63)):
        target = engine(long, "nf4", 8, largest_tree=most)
        target.sync(tokens)
        with threads(count):
            assert torch.equal(read(target, tree), wanted)


# --- what Engine asks for besides


@pytest.mark.parametrize("layer", range(3))
@pytest.mark.parametrize("chunks", [0, 1])
def test_a_pass_that_was_interrupted_can_be_made_again(layer: int, chunks: int) -> None:
    asked: list[bool] = []
    target = engine(folder("mistral"), "nf4", 8, largest_tree=10, stop=lambda: bool(asked) and asked.pop())
    target.sync(PROMPT)
    read(target, TREE)
    tokens = [*PROMPT, TREE.tokens[0], *text(15)]
    target.sync(tokens)
    asked.extend([True] + [False] * (layer + 3 * chunks))  # taken from the end
    with pytest.raises(Interrupted):
        read(target, chain(6, 5))
    assert not asked
    assert list(target.cache.tokens) == tokens[: target.cache.length]
    assert len(target.cache.branches) == 0
    assert torch.equal(read(target, chain(6, 5)), plain("mistral", "nf4", 8).at(tokens, chain(6, 5)))


def test_the_reader_is_given_the_vocabulary_in_blocks_and_closeness_never_matters() -> None:
    target = engine(folder("llama"), "nf4", 8, vocabulary=VOCABULARY - 13)
    target.sync(PROMPT)
    sizes: list[tuple[int, ...]] = []
    target.forward(below(150, 6, 3), lambda _, logits: sizes.append(tuple(logits.shape)))
    assert all(rows <= 64 and columns == VOCABULARY - 13 for rows, columns in sizes)
    assert target.rounding == 0
