"""Plain passes one below the other, without a tree: what they say, and what they leave, is what lone trees would."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from specexec.errors import ContextFull, Interrupted
from specexec.roles import Target
from tests import models, quantised
from tests.models import CONTEXT, VOCABULARY, chain, read, save, saved, tree_of

PROMPT = [5, 17, 60, 3, 42, 9]
FORKED = tree_of([7, 8, 9, 10, 11], [-1, 0, 0, 1, 2])
Make = Callable[..., Any]


def quantised_engine(folder: Path, **others: Any) -> Any:
    return quantised.engine(folder, "int8", 8, **others)


@pytest.fixture(params=["torch", "kernels"])
def make(request: pytest.FixtureRequest) -> Make:
    if request.param == "torch":
        return models.engine
    request.getfixturevalue("compiled")
    return quantised_engine


def passes(target: Target, token: int, count: int, seconds: float = 60.0) -> tuple[list[int], list[torch.Tensor]]:
    """Greedy tokens and their logits."""
    tokens, rows = list[int](), list[torch.Tensor]()

    def pick(logits: torch.Tensor) -> int | None:
        rows.append(logits[0].clone())
        tokens.append(int(logits[0].argmax()))
        return tokens[-1] if len(tokens) < count else None

    target.extend(token, pick, seconds)
    return tokens, rows


def begun(make: Make, folder: Path, **others: Any) -> Any:
    """An engine that holds the prompt, and a tree below it that the text does not follow."""
    target = make(folder, **others)
    target.sync(PROMPT)
    read(target, FORKED)
    return target


def same_as_lone_trees(quick: Any, slow: Any, text: list[int]) -> list[int]:
    """What both write below `text`, which `quick` is synced to; 7 is pending."""
    tokens, rows = passes(quick, 7, 18)
    written = [7]
    for token, row in zip(tokens, rows, strict=True):
        slow.sync([*text, *written[:-1]])
        assert torch.equal(read(slow, chain(written[-1]))[0], row)
        written.append(token)
    return written


@pytest.mark.parametrize("family", ["llama", "mistral"])  # a whole context, and a window that rows slide out of
def test_it_says_what_lone_trees_say_and_leaves_what_they_leave(family: str, make: Make) -> None:
    quick, slow = begun(make, saved(family)), begun(make, saved(family))
    written = same_as_lone_trees(quick, slow, PROMPT)
    for target in (quick, slow):
        target.sync([*PROMPT, *written[:-1]])
    assert quick.missing == 0
    assert torch.equal(read(quick, FORKED), read(slow, FORKED))
    assert quick.passes == slow.passes


def test_what_the_text_did_not_take_is_cut(make: Make) -> None:
    """A stop string, an answer made again."""
    target, other = begun(make, saved("llama")), make(saved("llama"))
    tokens, _ = passes(target, 7, 10)
    for each in (target, other):
        each.sync([*PROMPT, 7, *tokens[:3], 50])
    assert target.missing == 1
    assert torch.allclose(read(target, FORKED), read(other, FORKED), atol=1e-4)


@pytest.mark.parametrize("kv", ["int8", "int4"])
def test_rows_that_a_cut_took_along_are_read_again(kv: str, compiled: None, tmp_path: Path) -> None:
    """A cut within a group of quantised keys and values: `missing` does not know of it."""
    folder = save("llama", tmp_path, max_position_embeddings=1024)
    target, other = (quantised_engine(folder, kv=kv) for _ in range(2))
    text = [(7 * i * i + i // 3) % VOCABULARY for i in range(420)]
    target.sync(text)
    read(target, FORKED)
    target.sync([*text, 7, 8])
    read(target, FORKED)
    target.sync(text[:200])
    assert target.missing == 0
    same_as_lone_trees(target, other, text[:200])
    assert target.passes == 2 + 18


def test_the_time_ends_it(make: Make) -> None:
    tokens, _ = passes(begun(make, saved("llama")), 7, 1_000, seconds=0.0)
    assert len(tokens) == 1


def test_so_does_the_context(make: Make) -> None:
    target = begun(make, saved("llama"))
    assert len(passes(target, 7, 1_000)[0]) == CONTEXT - len(PROMPT)
    target.sync([7] * CONTEXT)
    with pytest.raises(ContextFull):
        passes(target, 7, 1)


def test_ctrl_c_leaves_what_was_picked_from(make: Make) -> None:
    asked = {"count": 0, "at": 10**9}

    def stop() -> bool:
        asked["count"] += 1
        return asked["count"] > asked["at"]

    target = begun(make, saved("llama"), stop=stop)
    picked: list[int] = []

    def pick(logits: torch.Tensor) -> int:
        picked.append(int(logits[0].argmax()))
        asked["at"] = asked["count"] + (10**9 if len(picked) < 4 else 1)  # within the fifth pass
        return picked[-1]

    with pytest.raises(Interrupted):
        target.extend(7, pick, 60.0)
    asked["at"] = 10**9
    assert len(picked) == 4
    text = [*PROMPT, 7, *picked[:3]]
    target.sync(text)
    assert target.missing == 0
    other = make(saved("llama"))
    other.sync(text)
    assert torch.allclose(read(target, FORKED), read(other, FORKED), atol=1e-4)
