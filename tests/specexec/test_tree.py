"""Trees of tokens, and the branches of a cache."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from specexec.kv.cache import Branches
from specexec.tree import ROOT, DraftTree, ancestor_mask, children_of, depths
from tests.models import chain, tree_of, trees


@st.composite
def forests(draw: st.DrawFn) -> Branches:
    """Rows below the committed end; several may hang from it, siblings carry distinct tokens."""
    tokens: list[int] = []
    parents: list[int] = []
    for parent, token in draw(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 5)), max_size=14)):
        new = (parent % (len(tokens) + 1) - 1, token)
        if new not in zip(parents, tokens, strict=True):
            parents.append(new[0])
            tokens.append(new[1])
    return Branches(tuple(tokens), tuple(parents))


def above(parents: tuple[int, ...], row: int) -> list[int]:
    """`row` and what lies above it, the highest first."""
    return [] if row == ROOT else [*above(parents, parents[row]), row]


def test_a_lone_root_is_a_tree() -> None:
    tree = DraftTree((7,))
    assert (len(tree), tree.depth, tree.path(0)) == (1, [0], [0])


@pytest.mark.parametrize("parents", [(0,), (1, ROOT), (ROOT, ROOT), (ROOT, 1), (ROOT, 2, 0), (ROOT, -2)])
def test_parents_come_first_and_only_node_0_is_a_root(parents: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="root"):
        tree_of(range(len(parents)), parents)


def test_siblings_with_the_same_token_are_refused() -> None:
    with pytest.raises(ValueError, match="distinct"):
        tree_of((1, 2, 2), (ROOT, 0, 0))


def test_cousins_may_carry_the_same_token() -> None:
    assert len(tree_of((1, 2, 3, 2), (ROOT, 0, 0, 2))) == 4


@pytest.mark.parametrize(("parents", "score", "source"), [
    ((ROOT,), (0.0, 0.0), ("a", "b")), ((ROOT, 0), (0.0,), ("a", "b")), ((ROOT, 0), (0.0, 0.0), ("a",)),
])
def test_columns_of_different_lengths_are_refused(
    parents: tuple[int, ...], score: tuple[float, ...], source: tuple[str, ...]
) -> None:
    with pytest.raises(ValueError, match="length"):
        DraftTree((1, 2), parents, score, source)


def test_a_tree_without_nodes_is_refused() -> None:
    with pytest.raises(ValueError, match=r"node|root"):
        DraftTree((), (), (), ())


@given(trees)
def test_a_path_runs_from_the_root_along_parents(tree: DraftTree) -> None:
    for node in range(len(tree)):
        path = tree.path(node)
        assert (path[0], path[-1]) == (0, node)
        assert all(tree.parents[child] == parent for parent, child in pairwise(path))
        assert tree.depth[node] == len(path) - 1


@given(forests(), st.data())
def test_the_mask_of_a_row_is_its_ancestors_and_itself(rows: Branches, data: st.DataObject) -> None:
    last = data.draw(st.integers(0, len(rows)))
    mask = ancestor_mask(rows.parents, last)
    assert mask.shape == (last, len(rows))
    for row in range(last):
        assert np.flatnonzero(mask[row]).tolist() == sorted(above(rows.parents, len(rows) - last + row))


@given(forests())
def test_depths_count_the_edges_to_a_root(rows: Branches) -> None:
    assert depths(rows.parents) == [len(above(rows.parents, row)) - 1 for row in range(len(rows))]


@given(forests())
def test_children_of_splits_roots_from_children(rows: Branches) -> None:
    roots, children = children_of(rows.tokens, rows.parents)
    for row, below in enumerate((roots, *children), ROOT):
        assert below == {rows.tokens[child]: child for child, parent in enumerate(rows.parents) if parent == row}


@given(forests(), st.lists(st.integers(0, 5), max_size=6))
def test_a_walk_follows_the_tokens_as_far_as_they_go(rows: Branches, tokens: list[int]) -> None:
    path = rows.walk(tokens)
    assert [rows.tokens[row] for row in path] == tokens[: len(path)]
    assert [rows.parents[row] for row in path] == [ROOT, *path][: len(path)]
    if len(path) < len(tokens):
        assert rows.child(path[-1] if path else ROOT, tokens[len(path)]) is None


@given(forests(), st.data())
def test_every_row_is_found_by_walking_its_own_tokens(rows: Branches, data: st.DataObject) -> None:
    row = data.draw(st.integers(ROOT, len(rows) - 1))
    path = above(rows.parents, row)
    assert rows.walk([rows.tokens[node] for node in path]) == path


@given(forests(), st.data())
def test_rebasing_keeps_tokens_and_parents_of_the_survivors(rows: Branches, data: st.DataObject) -> None:
    end = data.draw(st.integers(ROOT, len(rows) - 1))
    path = above(rows.parents, end)
    survivors: list[int] = []
    for row in range(len(rows)):
        if rows.parents[row] in (end, *survivors) and row not in path and data.draw(st.booleans()):
            survivors.append(row)
    found, remap = rows.rebased(path, survivors)
    assert remap == {row: new for new, row in enumerate(survivors)}
    assert found.tokens == tuple(rows.tokens[row] for row in survivors)
    for row, new in remap.items():
        assert above(found.parents, new) == [remap[node] for node in above(rows.parents, row)[len(path):]]


def test_survivors_may_come_in_another_order_than_the_rows() -> None:
    rows = Branches((1, 2, 3, 4), (ROOT, 0, 0, 2))
    assert rows.rebased([0], [2, 3, 1]) == (Branches((3, 4, 2), (ROOT, 0, ROOT)), {2: 0, 3: 1, 1: 2})


@pytest.mark.parametrize("path", [[1], [0, 2], [0, 1, 1], [2, 0], [0, 0], [4], [0, 1, 4], [-1], [0, -1]])
def test_a_path_that_does_not_hang_together_is_refused(path: list[int]) -> None:
    with pytest.raises(ValueError, match=r"path|row"):
        Branches((1, 2, 3, 4), (ROOT, 0, 1, ROOT)).rebased(path, [])


@pytest.mark.parametrize("survivors", [[0], [3], [2], [2, 1], [4], [-1], [1, 1]])
def test_survivors_that_do_not_hang_below_the_path_are_refused(survivors: list[int]) -> None:
    with pytest.raises(ValueError, match=r"row|hang"):
        Branches((1, 2, 3, 4), (ROOT, 0, 1, ROOT)).rebased([0], survivors)


def test_extending_adds_rows_after_those_there_are() -> None:
    rows = Branches((1,), (ROOT,)).extended((2, 3), (0, ROOT))
    assert rows == Branches((1, 2, 3), (ROOT, 0, ROOT))
    assert (rows.child(0, 2), rows.child(ROOT, 3), rows.child(1, 2)) == (1, 2, None)


def test_a_chain_goes_straight_down() -> None:
    assert chain(5, 6, 7).depth == [0, 1, 2]
