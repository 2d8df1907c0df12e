"""The suffix automaton against a search through the whole text."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from specexec.drafters.automaton import START, SuffixAutomaton

few = st.lists(st.integers(0, 2), max_size=40)
many = st.lists(st.integers(0, 50), max_size=40)


def occurrences(text: Sequence[int], part: Sequence[int]) -> list[int]:
    """Where `part` ends, for each place in `text` where it stands."""
    n = len(part)
    return [at + n for at in range(len(text) - n + 1) if list(text[at : at + n]) == list(part)]


def repeated(text: Sequence[int]) -> list[int]:
    """The longest suffix that occurs earlier too."""
    return next((list(text[at:]) for at in range(1, len(text)) if len(occurrences(text, text[at:])) > 1), [])


def following(text: Sequence[int], part: Sequence[int]) -> set[int]:
    return {text[end] for end in occurrences(text, part) if end < len(text)}


def of(text: Sequence[int]) -> SuffixAutomaton:
    automaton = SuffixAutomaton()
    automaton.follow(text)
    return automaton


@given(st.one_of(few, many))
def test_the_longest_repeated_suffix_is_found(text: list[int]) -> None:
    automaton = of(text)
    assert automaton.length[automaton.repeated] == len(repeated(text))


@given(st.one_of(few, many))
def test_its_continuations_are_what_followed_it_anywhere(text: list[int]) -> None:
    automaton = of(text)
    if automaton.repeated != START:
        assert set(automaton.next[automaton.repeated]) == following(text, repeated(text))


@given(few, st.lists(st.integers(0, 2), max_size=6))
def test_every_part_of_the_text_leads_to_what_followed_it_and_nothing_else_does(text: list[int], part: list[int]) -> None:
    automaton, state = of(text), START
    for token in part:
        if token not in automaton.next[state]:
            assert not occurrences(text, part)
            return
        state = automaton.next[state][token]
    assert occurrences(text, part)
    assert set(automaton.next[state]) == following(text, part)


@given(few, few)
def test_a_longer_text_is_followed_by_extending_it(text: list[int], more: list[int]) -> None:
    grown, anew = of(text), of([*text, *more])
    grown.follow([*text, *more])
    assert (grown.next, grown.link, grown.length, grown.last) == (anew.next, anew.link, anew.length, anew.last)


@given(few, few)
def test_another_text_is_followed_by_starting_anew(text: list[int], other: list[int]) -> None:
    automaton = of(text)
    automaton.follow(other)
    assert (automaton.tokens, automaton.length[automaton.repeated]) == (other, len(repeated(other)))


@given(few)
def test_there_are_at_most_two_states_a_token(text: list[int]) -> None:
    assert len(of(text).next) <= max(2, 2 * len(text))


@pytest.mark.parametrize("text", [[], [1], [1, 2, 3]])
def test_where_nothing_is_repeated_the_state_is_the_start(text: list[int]) -> None:
    assert of(text).repeated == START


def test_a_run_of_one_token_repeats_all_but_the_first() -> None:
    automaton = of([7] * 10)
    assert automaton.length[automaton.repeated] == 9
    assert list(automaton.next[automaton.repeated]) == [7]
