"""Trees on llama.cpp: the logits of plain transformers, whatever was evaluated, kept and dropped before."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from offload.gguf import Gguf
from offload.gguf_plan import cell_bytes
from specexec.engines.llamacpp import Model
from specexec.engines.llamacpp_engine import LlamacppEngine
from specexec.errors import ContextFull, Failed, Interrupted
from specexec.kv.sequences import MOST
from specexec.tree import ROOT, DraftTree
from tests.conftest import SHARED
from tests.gguf.conftest import F32, Q8
from tests.models import chain, expected, read, tree_of
from tests.specexec.engines.test_extend import passes

pytestmark = pytest.mark.usefixtures("llamacpp", "stories")

FOLDER = SHARED / "models" / "stories260k"
CONTEXT, VOCABULARY = 512, 512
EXACT, SAME = 1e-4, 2e-3  # against transformers in fp32; of a tree against chains
WIDE_TREE = tree_of([300, *range(10, 30), *range(30, 50)], [ROOT, *[0] * 20, *range(1, 21)])


def engine(
    file: str = F32, stop: Callable[[], bool] = lambda: False, threads: int = 1, tree: int = MOST
) -> LlamacppEngine:
    of = Gguf(FOLDER / file)
    return LlamacppEngine(model(file), VOCABULARY, CONTEXT, cell_bytes(of), threads, of.wide, stop, tree)


@cache
def model(file: str) -> Model:
    return Model(FOLDER / file, 0)


@cache
def shared_engine() -> LlamacppEngine:
    return engine()


def off(logits: torch.Tensor, tokens: list[int], tree: DraftTree, first: int = 0) -> float:
    """The largest difference from plain transformers."""
    return float((logits - expected(FOLDER, tokens, tree)[first:, :VOCABULARY]).abs().max())


ids = st.integers(3, VOCABULARY - 1)
trees = st.lists(st.tuples(st.integers(0, 30), ids), max_size=14).map(
    lambda nodes: _grown([(parent, token) for parent, token in nodes]))


def _grown(nodes: list[tuple[int, int]]) -> DraftTree:
    tokens, parents = [300], [ROOT]
    for parent, token in nodes:
        if (parent % len(tokens), token) not in zip(parents, tokens, strict=True):
            parents.append(parent % len(tokens))
            tokens.append(token)
    return tree_of(tokens, parents)


@settings(max_examples=25)
@given(st.lists(st.tuples(trees, st.integers(0, 99), st.integers(0, 4), st.booleans()), min_size=1, max_size=5))
def test_trees_have_the_logits_of_transformers(script: list[tuple[DraftTree, int, int, bool]]) -> None:
    """Each step: a tree, in one call or two; then the text goes on along one of its paths, or is cut."""
    target, tokens = shared_engine(), [1, 403, 407, 261, 378]
    for tree, end, cut, twice in script:
        target.sync(tokens)
        first = 1 + end % len(tree) if twice else len(tree)
        part = tree_of(tree.tokens[:first], tree.parents[:first])
        assert off(read(target, part), tokens, part) < EXACT
        if first < len(tree):
            assert off(read(target, tree, first), tokens, tree, first) < EXACT
        tokens = [*tokens, *(tree.tokens[node] for node in tree.path(end % len(tree)))]
        tokens = tokens[: len(tokens) - cut] or [1]


@pytest.mark.parametrize("file", [F32, Q8])
def test_a_tree_has_the_logits_of_its_chains(file: str) -> None:
    tokens, tree = [1, 403, 407, 261], WIDE_TREE
    whole, lone = engine(file), engine(file)
    whole.sync(tokens)
    found = read(whole, tree)
    for leaf in range(21, 41):
        path = tree.path(leaf)
        lone.cache.truncate(0)
        for end in range(len(path)):  # token by token, as plain decoding does
            lone.sync([*tokens, *(tree.tokens[node] for node in path[:end])])
            assert float((read(lone, chain(tree.tokens[path[end]]))[0] - found[path[end]]).abs().max()) < SAME


@pytest.mark.parametrize(("file", "most"), [(F32, EXACT), (Q8, 0.0)])
def test_plain_passes_one_below_the_other_say_what_lone_trees_say(file: str, most: float) -> None:
    tokens, quick, slow = [1, 403, 407, 261], engine(file), engine(file)
    quick.sync(tokens)
    read(quick, WIDE_TREE)
    for path in ((300, 15, 35), (300, 12)):  # the tree's own, whose rows then lie apart; and another
        tokens = [*tokens, *path]
        for target in (quick, slow):
            target.sync(tokens)
            read(target, chain(WIDE_TREE.tokens[0]))
        written, rows = passes(quick, 77, 20)
        for token, row in zip((77, *written), rows, strict=False):
            slow.sync(tokens)
            assert float((read(slow, chain(token))[0] - row).abs().max()) <= most
            tokens = [*tokens, token]
        quick.sync(tokens)
        assert quick.missing == 0
        slow.cache.truncate(0)
        slow.sync(tokens)
        assert float((read(quick, WIDE_TREE) - read(slow, WIDE_TREE)).abs().max()) <= most


@pytest.mark.parametrize("length", [4, 300])  # from 257 cells on llama.cpp may share out a single row among threads
def test_quantised_logits_are_the_same_to_the_last_bit_in_every_pass(length: int) -> None:
    tokens = [1, *(3 + i * 37 % 500 for i in range(length))]
    whole, lone = engine(Q8, threads=2), engine(Q8, threads=2)
    tree = tree_of([300, *range(3, 83)], [ROOT, *[0] * 40, *range(1, 41)])  # more rows than llama.cpp does in tiles
    whole.sync(tokens)
    found = read(whole, tree)
    for leaf in (41, 60, 80):
        path = tree.path(leaf)
        for end, node in enumerate(path):
            lone.sync([*tokens, *(tree.tokens[above] for above in path[:end])])
            assert read(lone, chain(tree.tokens[node]))[0].equal(found[node])


@pytest.mark.parametrize("largest", [2, 20, MOST])
def test_the_largest_tree_has_a_leaf_a_sequence(largest: int) -> None:
    target, tokens = engine(tree=largest), [1, 403]
    tree = tree_of([300, *range(3, 2 + largest)], [ROOT, *[0] * (largest - 1)])
    target.sync(tokens)
    assert off(read(target, tree), tokens, tree) < EXACT
    tokens = [*tokens, 300, 77]
    target.sync(tokens)
    assert off(read(target, tree), tokens, tree) < EXACT


def test_a_long_prompt_is_evaluated_in_chunks() -> None:
    target, tokens = engine(), [1, *(3 + i * 37 % 500 for i in range(450))]
    target.sync(tokens)
    assert off(read(target, chain(300, 301)), tokens, chain(300, 301)) < EXACT
    assert target.passes == 2


def test_the_context_ends_where_it_was_said_to() -> None:
    target = engine()
    target.sync([1] * (CONTEXT - 1))
    read(target, chain(300))
    target.sync([1] * CONTEXT)
    with pytest.raises(ContextFull):
        read(target, chain(300))


@pytest.mark.parametrize("at", [1, 2, 40])  # before the pass, at its first operation, and at a later one
def test_ctrl_c_between_plain_passes_leaves_what_was_picked_from(at: int) -> None:
    pressed, picked, tokens = {"at": 0, "asked": 0}, list[int](), [1, 403, 407]

    def stop() -> bool:
        pressed["asked"] += 1
        return pressed["asked"] == pressed["at"]

    def pick(logits: torch.Tensor) -> int:
        picked.append(int(logits[0].argmax()))
        if len(picked) == 4:
            pressed.update(at=at, asked=0)
            target.context._seconds = 0  # a pass of which nothing is known may be slow
        return picked[-1]

    target, other = engine(stop=stop), engine()
    target.sync(tokens)
    with pytest.raises(Interrupted):
        target.extend(300, pick, 60.0)
    assert (len(picked), pressed["asked"]) == (4, at)
    tokens = [*tokens, 300, *picked[:3]]
    for each in (target, other):
        each.sync(tokens)
    assert target.missing == 0
    assert float((read(target, WIDE_TREE) - read(other, WIDE_TREE)).abs().max()) < EXACT


def test_ctrl_c_leaves_what_was_before_and_the_pass_can_be_made_again() -> None:
    pressed = {"at": 0, "asked": 0}

    def stop() -> bool:
        pressed["asked"] += 1
        return pressed["asked"] == pressed["at"]

    target, tokens = engine(stop=stop), [1, 403, 407]
    for at in (1, 2, 40, 100):  # before the pass, at its first operation, and at later ones
        target.sync(tokens)
        pressed |= {"at": at, "asked": 0}
        target.context._seconds = 0  # a pass of which nothing is known may be slow
        with pytest.raises(Interrupted):
            read(target, WIDE_TREE)
        assert pressed["asked"] == at
        assert list(target.cache.tokens) == tokens[: target.cache.length]
        assert len(target.cache.branches) == 0
        assert off(read(target, WIDE_TREE), tokens, WIDE_TREE) < EXACT
        tokens = [*tokens, 300, 10, 30]


def test_what_llamacpp_cannot_do_is_an_error_and_the_engine_goes_on() -> None:
    target, tokens = engine(), [1, 403, 407]
    target.sync(tokens)
    with pytest.raises(Failed, match="llama"):
        read(target, chain(300, 10**6))  # no such token
    assert off(read(target, chain(300, 301)), tokens, chain(300, 301)) < EXACT


def test_a_file_that_llamacpp_cannot_load_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "broken.gguf").write_bytes(b"GGUF" + bytes(100))
    with pytest.raises(Failed, match="broken"):
        Model(tmp_path / "broken.gguf", 0)
