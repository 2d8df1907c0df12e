"""The parity matrix: every node's logits are plain transformers' on the node's own path, whatever happened before.

fp32 to 1e-4. bf16 and fp16 to a share of the logits' spread, against the fp32 model; the weights are rounded too, and these
models magnify what is rounded: plain transformers in the same dtype is as far away.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from specexec.engines.torch_engine import TorchEngine
from specexec.errors import ContextFull, Interrupted
from specexec.kv.cache import Rows
from specexec.kv.dense import DenseCache
from specexec.tree import ROOT, DraftTree
from tests.models import (
    BIASED,
    CONTEXT,
    FAMILIES,
    ROPES,
    VOCABULARY,
    WINDOW,
    Changed,
    chain,
    engine,
    expected,
    grown,
    ids,
    nodes,
    read,
    save,
    saved,
    tree_of,
    trees,
    weights,
)

LAYERS = 3
TOLERANCES = {torch.bfloat16: 0.5, torch.float16: 0.1}  # of the logits' standard deviation; 0.26 and 0.055 were measured
PROMPT = [5, 9, 2, 44, 17, 3, 8, 61, 30, 12, 7, 7, 21, 50, 33, 2, 9, 71, 40, 6]  # longer than a window
TREE = tree_of((11, 4, 9, 4, 30, 2, 9), (ROOT, 0, 0, 1, 1, 3, 2))


@dataclass(frozen=True)
class Turn:
    """What happens between two trees. Every number is taken modulo what there is."""

    kind: str
    pick: int
    split: int  # nodes of the next tree that an earlier call evaluates; 0: one call
    extra: list[int]  # tokens nobody has seen yet
    below: list[tuple[int, int]]
    root: int


turns = st.builds(
    Turn, st.sampled_from(["accept", "descend", "grow", "cut", "diverge"]), st.integers(0, 40),
    st.one_of(st.just(0), st.integers(1, 8)), st.lists(ids, max_size=4), nodes, ids,
)
scripts = st.lists(turns, min_size=1, max_size=4)
prompts = st.one_of(st.lists(ids, max_size=6), st.integers(WINDOW - 4, len(PROMPT)).map(lambda length: PROMPT[:length]))


class Play:
    """An engine driven through turns, and checked after each."""

    def __init__(self, folder: Path, target: TorchEngine, tokens: Sequence[int], tree: DraftTree) -> None:
        self.folder, self.target, self.tokens, self.tree = folder, target, list(tokens), tree
        self.show(0)

    def show(self, first: int) -> None:
        """Has the tree evaluated from node `first` on."""
        self.target.sync(self.tokens)
        wanted = expected(self.folder, self.tokens, self.tree)[first:, : self.target.limits.vocabulary]
        close(read(self.target, self.tree, first), wanted)

    def take(self, turn: Turn) -> None:
        first = getattr(self, turn.kind)(turn)
        if not first and turn.split and len(self.tree) > 1:
            whole, first = self.tree, 1 + turn.split % (len(self.tree) - 1)
            self.tree = tree_of(whole.tokens[:first], whole.parents[:first])
            self.show(0)
            self.tree = whole
        self.show(first)

    def fresh(self, turn: Turn) -> int:
        self.tree = grown(chain(turn.root), turn.below)
        return 0

    def accept(self, turn: Turn) -> int:
        """A path is accepted, and tokens nobody has seen follow."""
        self.tokens += [self.tree.tokens[node] for node in self.tree.path(turn.pick % len(self.tree))] + turn.extra
        return self.fresh(turn)

    def descend(self, turn: Turn) -> int:
        """A path is accepted, and the tree that was evaluated below its end goes on growing."""
        if len(self.tree) == 1:
            return self.accept(turn)
        old, root = self.tree, 1 + turn.pick % (len(self.tree) - 1)
        self.tokens += [old.tokens[node] for node in old.path(old.parents[root])]
        kept = [node for node in range(len(old)) if root in old.path(node)]
        kept = kept[: 1 + turn.split % len(kept)]
        parents = [ROOT if node == root else kept.index(old.parents[node]) for node in kept]
        return self._grow(tree_of([old.tokens[node] for node in kept], parents), turn)

    def grow(self, turn: Turn) -> int:
        """The same root, some of its nodes and new ones."""
        kept = 1 + turn.pick % len(self.tree)
        return self._grow(tree_of(self.tree.tokens[:kept], self.tree.parents[:kept]), turn)

    def _grow(self, kept: DraftTree, turn: Turn) -> int:
        self.tree = grown(kept, [*turn.below, (0, turn.root), (0, turn.root + 1)])
        return len(kept) if len(self.tree) > len(kept) else 0

    def cut(self, turn: Turn) -> int:
        self.tokens = self.tokens[: turn.pick % (len(self.tokens) + 1)]
        return self.fresh(turn)

    def diverge(self, turn: Turn) -> int:
        self.cut(turn)
        self.tokens += turn.extra
        return self.fresh(turn)


def started(folder: Path, target: TorchEngine | None = None) -> TorchEngine:
    """An engine that has evaluated PROMPT and TREE."""
    target = target or engine(folder)
    target.sync(PROMPT)
    read(target, TREE)
    return target


def close(found: torch.Tensor, wanted: torch.Tensor) -> None:
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=0)


# --- the matrix


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_tree_below_a_prompt(family: str, tied: bool) -> None:
    folder = saved(family, tied)
    close(read(started(folder), TREE), expected(folder, PROMPT, TREE))


@pytest.mark.parametrize("family", BIASED)
def test_a_tree_below_a_prompt_where_biases_were_asked_for(family: str) -> None:
    close(read(started(saved(family)), TREE), expected(saved(family), PROMPT, TREE))


@pytest.mark.parametrize("rope", ROPES)
def test_a_tree_below_a_long_prompt_with_scaled_rope(rope: str) -> None:
    folder = saved(rope)
    target = engine(folder)
    target.sync(PROMPT * 4)
    close(read(target, TREE), expected(folder, PROMPT * 4, TREE))


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=20)
@given(prompt=prompts, tree=trees, script=scripts)
def test_any_script_of_turns(family: str, prompt: list[int], tree: DraftTree, script: list[Turn]) -> None:
    folder = saved(family)
    play = Play(folder, engine(folder), prompt, tree)
    for turn in script:
        play.take(turn)


@pytest.mark.parametrize("family", ["llama", "mistral"])
@settings(max_examples=10)
@given(prompt=prompts, tree=trees, script=scripts)
def test_any_script_where_missing_tokens_come_in_chunks(
    family: str, prompt: list[int], tree: DraftTree, script: list[Turn]
) -> None:
    folder = saved(family)
    play = Play(folder, engine(folder, largest_tree=8), prompt, tree)
    for turn in script:
        play.take(turn)


@pytest.mark.parametrize("family", ["qwen2", "qwen2-mixed"])
@settings(max_examples=10)
@given(seen=st.integers(0, len(PROMPT)), prompt=prompts, tree=trees, script=scripts, tail=scripts)
def test_any_script_over_a_view(
    family: str, seen: int, prompt: list[int], tree: DraftTree, script: list[Turn], tail: list[Turn]
) -> None:
    """Base and view take turns of their own; what the base commits changes nothing the view says."""
    folder = saved(family)
    source = weights(folder)
    base = engine(folder, source=source)
    below = Play(folder, base, PROMPT[:seen], chain(1))
    above = Play(folder, engine(folder, source=source, cache=base.cache.view("full")), prompt, tree)
    for mine, theirs in zip(script, tail, strict=False):
        above.take(mine)
        below.take(theirs)
        above.show(0)


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("family", FAMILIES)
def test_lower_precision_stays_within_its_tolerance(family: str, dtype: torch.dtype) -> None:
    folder = saved(family)
    target = engine(folder, dtype=dtype)
    for tokens, tree in ((PROMPT, TREE), ([*PROMPT, *TREE.tokens[:2], 1, 2], chain(8, 7, 6))):
        target.sync(tokens)
        wanted = expected(folder, tokens, tree)
        assert (read(target, tree) - wanted).abs().max() <= TOLERANCES[dtype] * wanted.std()


def test_a_folder_of_several_shards(tmp_path: Path) -> None:
    folder = save("llama", tmp_path, max_shard_size="20KB")
    assert len(list(folder.glob("*.safetensors"))) > 2
    target = engine(folder)
    target.sync(PROMPT)
    close(read(target, TREE), expected(saved("llama"), PROMPT, TREE))


# --- what is evaluated, and when


class Counting(DenseCache):
    """Keeps, for each pass, the rows that came in its first layer."""

    def __init__(self) -> None:
        super().__init__(LAYERS)
        self.rows: list[int] = []

    def attend(self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, rows: Rows) -> torch.Tensor:
        if layer == 0:
            self.rows.append(k.shape[1])
        return super().attend(layer, q, k, v, rows)


def test_sync_evaluates_nothing() -> None:
    cache = Counting()
    engine(saved("llama"), cache=cache).sync(PROMPT)
    assert (cache.rows, cache.length) == ([], 0)


def test_the_prompt_and_the_first_tree_take_one_pass() -> None:
    cache = Counting()
    assert started(saved("llama"), engine(saved("llama"), cache=cache)).passes == 1
    assert cache.rows == [len(PROMPT) + len(TREE)]


def test_an_accepted_path_is_not_evaluated_again() -> None:
    cache = Counting()
    target = started(saved("llama"), engine(saved("llama"), cache=cache))
    target.sync([*PROMPT, *(TREE.tokens[node] for node in TREE.path(5)), 70, 71])
    read(target, chain(1, 2, 3))
    assert cache.rows[1:] == [2 + 3]
    assert target.passes == 2


def test_survivors_of_a_rebase_are_not_evaluated_again() -> None:
    cache = Counting()
    target = started(saved("llama"), engine(saved("llama"), cache=cache))
    target.sync([*PROMPT, TREE.tokens[0]])
    kept = tree_of((4, 4, 30, 2), (ROOT, 0, 0, 1))  # nodes 1, 3, 4 and 5
    read(target, grown(kept, [(3, 1), (2, 6)]), first=4)
    assert cache.rows[1:] == [2]


def test_only_what_follows_a_cut_is_evaluated_again() -> None:
    cache = Counting()
    target = started(saved("llama"), engine(saved("llama"), cache=cache))
    target.sync(PROMPT[:15])
    read(target, chain(1))
    assert cache.rows[1:] == [1]


@pytest.mark.parametrize(("missing", "passes"), [(0, 1), (8, 1), (9, 2), (16, 2), (17, 3), (20, 3)])
def test_missing_tokens_beyond_the_largest_tree_take_passes_of_their_own(missing: int, passes: int) -> None:
    cache = Counting()
    target = engine(saved("llama"), cache=cache, largest_tree=8)
    target.sync(PROMPT[:missing])
    close(read(target, TREE), expected(saved("llama"), PROMPT[:missing], TREE))
    assert target.passes == len(cache.rows) == passes
    assert sum(cache.rows) == missing + len(TREE)


@pytest.mark.parametrize("tokens", [[*PROMPT, 11, 3], [*PROMPT, 11, 4, 3], [*PROMPT, 3], PROMPT[:-1]])
def test_nodes_before_first_that_nobody_evaluated_are_refused(tokens: list[int]) -> None:
    """Below PROMPT lie 11 and, below it, 4: the second lot of tokens leaves one to be evaluated above node 0."""
    target = started(saved("llama"))
    target.sync(tokens)
    with pytest.raises(ValueError, match="first"):
        read(target, chain(4, 5), first=1)
    target.sync(PROMPT)
    close(read(target, TREE), expected(saved("llama"), PROMPT, TREE))


# --- what the reader is given


def test_padded_rows_of_the_vocabulary_never_reach_the_reader() -> None:
    target = engine(saved("llama"), vocabulary=VOCABULARY - 13)
    target.sync(PROMPT)
    found = read(target, TREE)
    assert found.shape == (len(TREE), VOCABULARY - 13)
    close(found, expected(saved("llama"), PROMPT, TREE)[:, : VOCABULARY - 13])


@pytest.mark.parametrize(("below", "first"), [(0, 0), (63, 0), (64, 0), (79, 0), (79, 10)])
def test_logits_come_in_order_in_blocks_of_at_most_64_rows(below: int, first: int) -> None:
    tree = tree_of((1, *range(below)), (ROOT, *(0,) * below))
    target = engine(saved("llama"))
    target.sync(PROMPT)
    if first:
        read(target, tree_of(tree.tokens[:first], tree.parents[:first]))
    blocks: list[tuple[int, int]] = []
    target.forward(tree, lambda start, logits: blocks.append((start, len(logits))), first)
    assert all(0 < size <= 64 for _, size in blocks)
    assert [node for start, size in blocks for node in range(start, start + size)] == list(range(first, len(tree)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_reader_is_given_fp32(dtype: torch.dtype) -> None:
    assert read(engine(saved("llama"), dtype=dtype), chain(1)).dtype == torch.float32


# --- limits and faults


def test_the_last_position_of_the_context_can_be_asked_for() -> None:
    target = engine(saved("llama"), context=len(PROMPT) + 3)
    target.sync(PROMPT)
    close(read(target, chain(1, 2, 3)), expected(saved("llama"), PROMPT, chain(1, 2, 3)))


def test_a_position_past_the_context_is_refused_and_changes_nothing() -> None:
    target = started(saved("llama"), engine(saved("llama"), context=len(PROMPT) + 4))
    before = state(target)
    with pytest.raises(ContextFull, match=str(len(PROMPT) + 4)) as caught:
        read(target, chain(1, 2, 3, 4, 5))
    assert caught.value.exit_code == 2
    assert caught.value.hint
    target.sync([*PROMPT, 1, 2, 3, 4])
    with pytest.raises(ContextFull):
        read(target, chain(5))
    assert state(target) == before


def test_the_context_is_the_models_own_unless_told() -> None:
    assert engine(saved("llama")).limits.context == CONTEXT
    assert engine(saved("llama"), context=50).limits.context == 50


def state(target: TorchEngine) -> tuple[object, ...]:
    return list(target.cache.tokens), target.cache.branches, target.cache.length


PATH = [TREE.tokens[node] for node in TREE.path(5)]
AFTER = {"the same": PROMPT, "a path": [*PROMPT, *PATH], "a path and more": [*PROMPT, *PATH, 3, 4], "more": [*PROMPT, 1, 2],
         "fewer": PROMPT[:9], "others": [*PROMPT[:9], 70, 71, 72], "chunks": [*PROMPT, *range(20)]}


def interrupted(after: str, layer: int, chunks: int = 0) -> tuple[TorchEngine, list[bool]]:
    """An engine that has evaluated PROMPT and TREE, and will be stopped before a layer of its next pass but `chunks`."""
    asked: list[bool] = []
    target = started(saved("mistral"), engine(saved("mistral"), largest_tree=10, stop=lambda: bool(asked) and asked.pop()))
    target.sync(AFTER[after])
    asked.extend([True] + [False] * (layer + LAYERS * chunks))  # taken from the end
    return target, asked


@pytest.mark.parametrize("layer", range(LAYERS))
@pytest.mark.parametrize("after", AFTER)
def test_an_interrupted_pass_leaves_nothing_of_itself(after: str, layer: int) -> None:
    target, asked = interrupted(after, layer)
    passes = target.passes
    with pytest.raises(Interrupted):
        read(target, chain(6, 5))
    tokens = list(target.cache.tokens)
    assert not asked
    assert tokens == AFTER[after][: len(tokens)]
    assert len(tokens) <= len(PROMPT) + len(PATH)
    assert len(target.cache.branches) == 0
    assert target.passes == passes
    close(read(target, chain(6, 5)), expected(saved("mistral"), AFTER[after], chain(6, 5)))


@pytest.mark.parametrize("fault", ["stop", "source", "attend", "reader"])
@pytest.mark.parametrize("after", AFTER)
def test_the_same_forward_goes_through_after_a_fault(after: str, fault: str) -> None:
    broken = ""

    def fail(where: str) -> bool:
        if broken == where:
            raise OSError(where)
        return False

    class Failing(DenseCache):
        def attend(self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, rows: Rows) -> torch.Tensor:
            return super().attend(layer, q, k, v, rows) if layer < 2 or not fail("attend") else v

    folder = saved("qwen3")
    source = Changed(weights(folder), lambda index: index > 0 and fail("source"))
    target = engine(folder, largest_tree=10, cache=Failing(LAYERS), source=source, stop=lambda: fail("stop"))
    started(folder, target)
    target.sync(AFTER[after])
    broken = fault
    with pytest.raises(OSError, match=fault):
        target.forward(chain(6, 5), lambda *_: fail("reader") and None)
    broken = ""
    close(read(target, chain(6, 5)), expected(folder, AFTER[after], chain(6, 5)))
    target.sync([*AFTER[after], 6])
    close(read(target, chain(5, 1), first=1), expected(folder, [*AFTER[after], 6], chain(5, 1))[1:])


def test_another_forward_goes_through_after_a_fault() -> None:
    """Rows of the pass that failed are in the buffers; nobody may see them."""
    failing = True

    def before(index: int) -> None:
        if failing and index == 2:
            raise OSError

    folder = saved("llama")
    target = engine(folder, source=Changed(weights(folder), before))
    target.sync(PROMPT)
    with pytest.raises(OSError):  # noqa: PT011
        read(target, TREE)
    failing = False
    target.sync(PROMPT[:4])
    close(read(target, chain(9, 1)), expected(folder, PROMPT[:4], chain(9, 1)))


def test_each_layer_is_asked_for_once_a_pass_and_held_alone() -> None:
    asked: list[int] = []
    open_now: list[int] = []

    class Watched(Changed):
        @contextmanager
        def layer(self, index: int) -> Iterator[Mapping[str, torch.Tensor]]:
            assert not open_now
            asked.append(index)
            open_now.append(index)
            with self.source.layer(index) as tensors:
                yield tensors
            open_now.remove(index)

    target = engine(saved("llama"), source=Watched(weights(saved("llama")), lambda _: None))
    started(saved("llama"), target)
    read(target, chain(1))
    assert asked == [*range(LAYERS)] * 2
    assert not open_now


# --- views


def test_a_view_of_what_another_engine_of_the_same_weights_evaluated() -> None:
    folder = saved("qwen2")
    source = weights(folder)
    base = engine(folder, source=source)
    base.sync(PROMPT)
    read(base, TREE)
    base.sync([*PROMPT, 11])
    read(base, chain(1))  # PROMPT and 11 are committed now
    above = engine(folder, source=source, cache=base.cache.view("full"))
    counted = above.passes
    above.sync([*PROMPT, 11, 60])
    close(read(above, TREE), expected(folder, [*PROMPT, 11, 60], TREE))
    assert above.passes == counted + 1


@pytest.mark.parametrize("family", ["llama", "mistral"])
@pytest.mark.parametrize("tokens", [[*PROMPT, 11, 1, 3], [*PROMPT[:9], 3]])
def test_what_the_base_commits_or_cuts_drops_the_views_tail(family: str, tokens: list[int]) -> None:
    folder = saved(family)
    source = weights(folder)
    base = started(folder, engine(folder, source=source))
    base.sync([*PROMPT, 11])
    read(base, chain(1))
    above = engine(folder, source=source, cache=base.cache.view("full"))
    above.sync([*PROMPT, 11, 60, 61])
    read(above, TREE)
    base.sync(tokens)
    read(base, chain(5))
    assert len(above.cache.branches) == 0
    above.sync([*tokens, 8])
    close(read(above, TREE), expected(folder, [*tokens, 8], TREE))


def test_a_view_does_not_evaluate_again_what_its_base_has_committed_since() -> None:
    folder = saved("llama")
    source = weights(folder)
    base = started(folder, engine(folder, source=source))
    above = engine(folder, source=source, cache=base.cache.view("full"), largest_tree=2)
    base.sync([*PROMPT, 11, 4, 4])
    read(base, chain(5))
    above.sync([*PROMPT, 11, 4, 4])
    read(above, chain(5, 6))
    assert above.passes == 1
