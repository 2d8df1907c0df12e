"""Each foreign rule against an answer known otherwise."""

import itertools
import math
from collections.abc import Iterator, Sequence

import pytest
import torch

from specexec.tree import DraftTree
from tests.benchmarks.lab.chains import Chains
from tests.benchmarks.lab.drawn import Drawn, ordered, repeated, unrepeated, verify
from tests.benchmarks.lab.dyspec import DySpec
from tests.benchmarks.lab.ground import Ground
from tests.benchmarks.lab.opt_tree import OptTree
from tests.benchmarks.lab.sequoia import Sequoia, acceptance
from tests.benchmarks.lab.specexec_tree import SpecExecTree
from tests.benchmarks.lab.topology import Best, Shape, levels, size, value
from tests.benchmarks.lab.toy import POSITIONS, TOKENS, Toy, toys

DEEP = 3


def shapes(nodes: int) -> Iterator[Shape]:
    """All ordered trees of so many nodes."""
    if nodes == 1:
        yield ()
    for first in range(1, nodes):
        for child, rest in itertools.product(shapes(first), shapes(nodes - first)):
            yield (child, *rest)


VECTORS = [(0.6, 0.2, 0.1, 0.05, 0.02, 0.01), (0.3, 0.3, 0.3, 0.05), (0.1, 0.5, 0.2, 0.2), (0.9,), (0.5, 0.0, 0.2)]


@pytest.mark.parametrize("p", VECTORS)
@pytest.mark.parametrize("deepest", [1, 2, 6])
def test_sequoias_tree_is_the_best_of_all(p: Sequence[float], deepest: int) -> None:
    for nodes in range(1, 8):
        fitting = [s for s in shapes(nodes) if levels(s) <= deepest and all_ranked(s, len(p))]
        if fitting:
            found = Best(p, nodes, deepest).shape
            assert (size(found), levels(found) <= deepest) == (nodes, True)
            assert value(found, p) == pytest.approx(max(value(shape, p) for shape in fitting))


def all_ranked(shape: Shape, widest: int) -> bool:
    return len(shape) <= widest and all(all_ranked(child, widest) for child in shape)


def test_the_best_large_tree_holds_the_largest_products() -> None:
    """With falling p and room below, the best tree of n nodes is that of the n largest products along its paths."""
    p, nodes = [0.6, 0.15, 0.07, 0.03], 300
    products, frontier = [1.0], [1.0]
    while frontier:
        frontier = [x * chance for x in frontier for chance in p if x * chance > 1e-4]
        products += frontier
    assert value(Best(p, nodes, 40).shape, p) == pytest.approx(sum(sorted(products)[-nodes:]))


def test_acceptance_is_what_verification_accepts() -> None:
    ground = Ground(toys(1.0), 1.0, seed=2)
    ground.begin([0], 0)
    assert isinstance(ground.pair.target, Toy)
    p, q = (ground.q(engine.logits[0, :1]).repeat(4000, 1) for engine in (ground.pair.target, toys(1.0).draft))  # type: ignore[attr-defined]
    order = ordered(ground, q, 2)
    accepted = [0, 0]
    for tokens in order[:1000].tolist():
        drawn = Drawn(0)
        drawn.law[0] = q[0]
        for token in tokens:
            drawn.add(0, token)
        assert len(drawn) == 2
        rank = first_accepted(ground, drawn, p[0])
        if rank is not None:
            accepted[rank] += 1
    for found, expected in zip(accepted, acceptance(p, q, order).tolist(), strict=True):
        assert found / 1000 == pytest.approx(expected, abs=4 * math.sqrt(expected * (1 - expected) / 1000))


def first_accepted(ground: Ground, drawn: Drawn, p: torch.Tensor) -> int | None:
    """The rank of the accepted child: the walk then ends at it, where nothing was drawn."""
    written = verify(ground, drawn, p.repeat(3, 1), unrepeated)
    return [drawn.tokens[child] for child in drawn.tries[0]].index(written[0]) if len(written) == 2 else None


def paths(ground: Ground) -> dict[tuple[int, ...], list[float]]:
    """{tokens below node 0: the draft's probabilities of its edges} down to DEEP levels, by brute force."""
    draft = toys(1.0).draft
    assert isinstance(draft, Toy)
    q = ground.q(draft.logits)
    found: dict[tuple[int, ...], list[float]] = {(): []}
    for depth in range(DEEP):
        for above in [path for path in found if len(path) == depth]:
            last = above[-1] if above else 0
            found |= {(*above, token): [*found[above], float(q[depth, last, token])] for token in range(TOKENS)}
    return {path: edges for path, edges in found.items() if path}


def paths_of(tree: DraftTree) -> set[tuple[int, ...]]:
    return {tuple(tree.tokens[i] for i in tree.path(node)[1:]) for node in range(1, len(tree))}


@pytest.fixture
def ground() -> Ground:
    ground = Ground(toys(1.0), 1.0, seed=7)
    ground.begin([0], 0)
    return ground


@pytest.mark.parametrize("budget", [1, 4, 9])
def test_opt_tree_holds_the_likeliest_paths(ground: Ground, budget: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.benchmarks.lab.opt_tree.LEAST_GAIN", -1.0)
    monkeypatch.setattr(ground, "levels", lambda _: DEEP)
    chances = {path: math.prod(edges) for path, edges in paths(ground).items()}
    best = set(sorted(chances, key=lambda path: -chances[path])[:budget])
    assert paths_of(OptTree(ground, budget).tree([0])) == best


def test_opt_tree_stops_where_a_layer_adds_little(ground: Ground, monkeypatch: pytest.MonkeyPatch) -> None:
    deep = OptTree(ground, 4)
    monkeypatch.setattr("tests.benchmarks.lab.opt_tree.LEAST_GAIN", 10.0)
    assert max(deep.tree([0]).depth) == 1


@pytest.mark.parametrize("budget", [1, 4, 9])
def test_specexecs_tree_discounts_a_level(ground: Ground, budget: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ground, "levels", lambda _: DEEP)
    chances = {path: math.prod(edges) * 0.95 ** len(edges) for path, edges in paths(ground).items()}
    best = set(sorted(chances, key=lambda path: -chances[path])[:budget])
    assert paths_of(SpecExecTree(ground, budget).tree([0])) == best


def test_dyspec_fills_the_most_valuable_slot(ground: Ground) -> None:
    """Replayed with a list of slots that is searched anew each time, on the tokens that were drawn."""
    drawn = DySpec(ground, 8).draw([0])
    slots, siblings = {(0, 0): 1.0}, [0] * len(drawn.tokens)
    for child in range(1, len(drawn.tokens)):
        parent = drawn.parents[child]
        slot = parent, siblings[parent]
        assert slots[slot] == pytest.approx(max(slots.values()))
        older = [drawn.tokens[node] for node in drawn.tries[parent][: siblings[parent]]]
        share = float(drawn.law[parent][drawn.tokens[child]] / (1 - drawn.law[parent][older].sum()))
        worth = slots.pop(slot)
        siblings[parent] += 1
        slots[child, 0], slots[parent, siblings[parent]] = worth * share, worth * (1 - share)


@pytest.mark.parametrize(("temperature", "budget"), [(1.0, 9), (1.0, 16), (0.0, 9)])
def test_k_chains_use_their_nodes(temperature: float, budget: int) -> None:
    ground = Ground(toys(1.0), temperature, seed=1)
    ground.begin([0], 0)
    drawn = Chains(ground, budget).draw([0])
    assert len(drawn) == budget
    assert len(drawn.tries[0]) == math.isqrt(budget)
    assert max(drawn.depth) >= math.isqrt(budget)
    if temperature == 0:  # chains that start apart stay apart
        assert len({*drawn.tries[0]}) == 3
        assert all(len(tries) <= 1 for tries in drawn.tries[1:])


def test_repeats_are_tried_again(ground: Ground) -> None:
    """Two equal draws: the second is accepted from the residual, whose mass there is none, so never."""
    drawn = Drawn(0)
    drawn.law[0] = torch.tensor([0.5, 0.5, 0.0, 0.0], dtype=torch.float64)
    assert (drawn.add(0, 0), drawn.add(0, 0)) == (1, 1)
    p = torch.tensor([0.25, 0.75, 0.0, 0.0], dtype=torch.float64).repeat(2, 1)
    accepted = sum(len(verify(ground, drawn, p, repeated)) == 2 for _ in range(2000))
    assert accepted / 2000 == pytest.approx(0.5, abs=0.05)


def test_sequoia_draws_its_shape(ground: Ground) -> None:
    rule = Sequoia(ground, 3)
    rule.shape = (((),), ())
    rule.advance([0])
    assert ground.cost.nodes == 3
    assert sum(ground.cost.widths.values()) == 2  # the root, then the first child alone


def test_no_tree_is_deeper_than_the_context(ground: Ground) -> None:
    context = [0] * (POSITIONS - 1)
    for kind in (OptTree, SpecExecTree):
        assert max(kind(ground, 9).tree(context).depth) <= 1
