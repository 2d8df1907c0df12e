"""Rows that were kept and taken back: the same logits to the last bit, or an empty cache."""

from collections.abc import Callable, Iterable

import pytest
import torch

from specexec.engines.weights_engine import WeightsEngine
from specexec.kv.kept import Kept
from tests import models, quantised
from tests.models import chain, read, tree_of
from tests.specexec.engines.test_kernel_engine import folder, text

KINDS: dict[str, Callable[[], WeightsEngine]] = {
    "dense": lambda: models.engine(folder("llama")),
    "dense-bf16": lambda: models.engine(folder("llama"), dtype=torch.bfloat16),
    **{f"dense-{kv}": lambda kv=kv: in_torch(kv) for kv in ("int8", "int4")},
    **{kv: lambda kv=kv: quantised.engine(folder("qwen2-mixed"), "int8", 16, kv=kv) for kv in ("bf16", "int8", "int4")},
}


def in_torch(kv: str) -> WeightsEngine:
    return models.engine(folder("llama")).keeping(kv)


TREE = tree_of((5, 6, 7, 8), (-1, 0, 0, 1))


@pytest.fixture(params=KINDS)
def make(request: pytest.FixtureRequest) -> Callable[[], WeightsEngine]:
    if not request.param.startswith("dense"):
        request.getfixturevalue("compiled")
    return KINDS[request.param]


def rows(engine: WeightsEngine) -> Kept:
    assert isinstance(engine.cache, Kept)
    return engine.cache


def evaluated(engine: WeightsEngine, *lengths: int) -> WeightsEngine:
    """Holds `text` of the last length, after it held the others."""
    for length in lengths:
        engine.sync(text(length))
        read(engine, TREE)  # type: ignore[arg-type]
    engine.settle()
    return engine


def taken(source: WeightsEngine, into: WeightsEngine) -> None:
    """Through bytes alone."""
    kept = [bytes(piece.numpy().data) for piece in rows(source).pieces()]

    def fill(pieces: Iterable[torch.Tensor]) -> None:
        for piece, content in zip(pieces, kept, strict=True):
            piece.copy_(torch.frombuffer(bytearray(content), dtype=torch.uint8) if content else piece)

    rows(into).restore(list(source.cache.tokens), rows(source).form(), fill)


LENGTHS = [(3,), (127,), (128,), (129,), (70, 140), (140, 133), (140, 20), (300,), (300, 270), (300, 200)]


@pytest.mark.parametrize("lengths", LENGTHS)
def test_what_is_taken_back_has_the_same_logits(make: Callable[[], WeightsEngine], lengths: tuple[int, ...]) -> None:
    source, other = evaluated(make(), *lengths), make()
    evaluated(other, 11)  # what it held is forgotten
    taken(source, other)
    assert list(other.cache.tokens) == list(source.cache.tokens) == text(lengths[-1])
    for length in (lengths[-1], lengths[-1] // 2 + 1, lengths[-1] + 9):
        for engine in (source, other):
            engine.sync(text(length))
        assert other.missing == source.missing
        assert torch.equal(read(source, TREE), read(other, TREE))  # type: ignore[arg-type]


def test_nothing_of_it_is_evaluated_again(make: Callable[[], WeightsEngine]) -> None:
    source, other = evaluated(make(), 140), make()
    taken(source, other)
    other.sync(text(140))
    assert other.missing == 0
    assert other.cache.nbytes <= source.cache.nbytes


def test_a_view_sees_them(make: Callable[[], WeightsEngine]) -> None:
    source, other = evaluated(make(), 140), make()
    if other.cache.kind == "int4":  # type: ignore[attr-defined]
        pytest.skip("it has no view")
    view = other.cache.view("int4" if other.cache.kind == "int8" else "full")  # type: ignore[attr-defined]
    assert view.length == 0
    taken(source, other)
    assert view.length == 140


def test_rows_that_do_not_all_come_leave_nothing(make: Callable[[], WeightsEngine]) -> None:
    source, other = evaluated(make(), 140), evaluated(make(), 60)

    def fill(pieces: Iterable[torch.Tensor]) -> None:
        next(iter(pieces)).fill_(7)
        raise OSError("the disk")

    with pytest.raises(OSError, match="the disk"):
        rows(other).restore(list(source.cache.tokens), rows(source).form(), fill)
    assert other.cache.length == 0
    fresh = make()
    for engine in (other, fresh):
        engine.sync(text(140))
    assert torch.equal(read(other, chain(3)), read(fresh, chain(3)))  # type: ignore[arg-type]


@pytest.mark.parametrize("change", [{"layers": 9}, {"start": 64}, {"start": 512}, {"start": -128}])
def test_another_form_is_refused(make: Callable[[], WeightsEngine], change: dict[str, int]) -> None:
    source, other = evaluated(make(), 140), make()
    form = {**rows(source).form(), **change}
    if "start" in change and "start" not in rows(source).form():
        pytest.skip("its rows begin where they begin")
    with pytest.raises(ValueError, match="no form"):
        rows(other).restore(list(source.cache.tokens), form, lambda pieces: None)
    assert other.cache.length == 0
