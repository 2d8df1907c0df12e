"""Thoughts told apart from answers, however the text comes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from specexec.thoughts import CLOSE, OPEN, Piece, Thoughts, opened, visible


def split(pieces: list[str], within: bool = False) -> tuple[str, str]:
    """(thoughts, answer)."""
    thoughts = Thoughts(within)
    shown: list[Piece] = [piece for text in pieces for piece in thoughts.take(text)] + list(thoughts.close())
    return "".join(p.text for p in shown if p.thought), "".join(p.text for p in shown if not p.thought)


@pytest.mark.parametrize(("text", "within", "expected"), [
    ("<think>\na < b </thin\n</think>\n\nYes.", False, ("\na < b </thin\n", "Yes.")),
    ("a</think>\n\nYes, <think> is a mark.", True, ("a", "Yes, <think> is a mark.")),
    ("  Yes <think>no</think>", False, ("", "  Yes <think>no</think>")),
    ("<think>cut", False, ("cut", "")),
    ("<think>cut </th", False, ("cut </th", "")),
    ("<thi", False, ("", "<thi")),
    ("<think></think>\n\n", False, ("", "")),
    ("", False, ("", "")),
])
def test_every_way_to_cut_a_text_gives_the_same(text: str, within: bool, expected: tuple[str, str]) -> None:
    assert split([text], within) == expected
    assert split(list(text), within) == expected


@given(st.lists(st.sampled_from([OPEN, CLOSE, "<", "think>", "</", "a", "\n", " "])), st.data())
def test_pieces_never_change_what_is_shown(parts: list[str], data: st.DataObject) -> None:
    text = "".join(parts)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=6)))
    pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    assert split(pieces) == split([text])


def test_text_is_shown_as_soon_as_it_cannot_be_a_mark() -> None:
    thoughts = Thoughts()
    assert list(thoughts.take("<thi")) == []
    assert list(thoughts.take("s")) == [Piece(False, "<this")]
    assert list(thoughts.take("<think>")) == [Piece(False, "<think>")]


def test_what_a_prompt_has_opened() -> None:
    assert opened("<|assistant|>\n<think>\n")
    assert not opened("<think>a</think>")


def test_the_visible_part() -> None:
    assert visible("<think>a</think>\n\nb\n") == "b"
    assert visible(" b") == "b"
