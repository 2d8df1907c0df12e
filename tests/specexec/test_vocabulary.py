"""Whether two tokenizers speak of the same tokens, and which id is which."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from specexec.errors import WrongUsage
from specexec.vocabulary import match

ABC = {"a": 0, "b": 1, "c": 2}


def test_equal_vocabularies_need_no_mapping() -> None:
    found, logits = match(ABC, dict(ABC)), torch.randn(2, 3)
    assert found.of_target is None
    assert found.to_draft([2]) == [2]
    assert found.to_target(logits) is logits


def test_reordered_ids_are_mapped() -> None:
    found = match(ABC, {"a": 2, "b": 0, "c": 1})
    assert found.to_draft(range(3)) == [2, 0, 1]


def test_a_drafts_columns_come_in_the_order_of_the_targets_ids() -> None:
    found = match(ABC, {"a": 2, "b": 0, "c": 1})
    assert found.to_target(torch.tensor([[10.0, 20.0, 30.0], [1.0, 2.0, 3.0]])).tolist() == [[30, 10, 20], [3, 1, 2]]


@given(st.permutations(range(12)), st.permutations(range(12)))
def test_every_string_keeps_its_logit(target: list[int], draft: list[int]) -> None:
    strings = [f"token{i}" for i in range(12)]
    of_target, of_draft = dict(zip(strings, target, strict=True)), dict(zip(strings, draft, strict=True))
    found, logits = match(of_target, of_draft), torch.randn(1, 12)
    for string in strings:
        assert found.to_draft([of_target[string]]) == [of_draft[string]]
        assert found.to_target(logits)[0, of_target[string]] == logits[0, of_draft[string]]


def test_padded_columns_of_a_reordered_draft_are_dropped() -> None:
    found = match(ABC, {"a": 2, "b": 0, "c": 1})
    assert found.to_target(torch.tensor([[10.0, 20.0, 30.0, 99.0, 99.0]])).tolist() == [[30.0, 10.0, 20.0]]


def test_ids_without_a_string_are_no_difference() -> None:
    holes = {"a": 0, "c": 5}
    assert match(holes, dict(holes)).of_target is None
    assert match(holes, {"a": 1, "c": 0}).to_draft([5]) == [0]


@pytest.mark.parametrize(("target", "draft", "named"), [
    ({"a": 0, "b": 1, "c": 2}, {"a": 0, "x": 1, "c": 2}, 'token 1 ("b" / "x")'),
    ({"a": 0, "b": 1}, {"a": 0}, 'token 1 ("b" / nothing)'),
    ({"a": 0}, {"a": 0, "b": 1}, 'token 1 (nothing / "b")'),
    ({"a": 0, "b": 1, "c": 2}, {"a": 0, "x": 1, "y": 2}, 'token 1 ("b" / "x")'),
    ({f"t{i}": i for i in range(1_500)}, {f"t{i}": i for i in range(1_499)}, 'token 1,499 ("t1499" / nothing)'),
])
def test_the_first_token_they_disagree_on_is_named(target: dict[str, int], draft: dict[str, int], named: str) -> None:
    with pytest.raises(WrongUsage) as caught:
        match(target, draft)
    assert f"disagree at {named}." in str(caught.value)
    assert caught.value.hint
