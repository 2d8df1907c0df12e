"""What a token says by itself: as its tokenizer says it in any text, or nothing."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models

from cli.codec import Codec
from cli.pieces import Pieces
from specexec.answer import REPLACEMENT, Answer, Endings
from tests.benchmarks.pair import BUNDLED

SMALL = "models/stories260k"
TOKENIZERS = ["tokenizers/mistral-v1", SMALL, "tokenizers/gpt2", f"{SMALL}/stories260k-q8_0.gguf", "bundled"]
ids = st.lists(st.one_of(st.integers(0, 300), st.integers(0, 511)), max_size=40)  # sentencepiece has its bytes first
KINDS = {
    "WordPiece": decoders.WordPiece(), "BPE": decoders.BPEDecoder(), "CTC": decoders.CTC(), "none": None,
    "after": decoders.Sequence([decoders.Fuse(), decoders.Replace("ab", "c")]),
    "end": decoders.Sequence([decoders.Fuse(), decoders.Strip(" ", 1, 1)]),
}


class Slowly(Codec):
    """Asks the tokenizer itself, every time."""

    def piece(self, token: int) -> str | None:
        return None


@pytest.fixture(scope="module", params=TOKENIZERS)
def place(request: pytest.FixtureRequest, shared: Path) -> Path:
    return BUNDLED / "target" if request.param == "bundled" else shared / request.param


@pytest.fixture(scope="module")
def both(place: Path) -> tuple[Codec, Slowly]:
    return Codec(place), Slowly(place)


def shown(codec: Codec, prompt: Sequence[int], written: Sequence[int]) -> list[str]:
    answer = Answer(codec, prompt, Endings(frozenset(), 1_000))
    return [*(answer.take([token]) for token in written), answer.close("end"), answer.text]


def test_nearly_every_token_says_something_by_itself(both: tuple[Codec, Slowly]) -> None:
    codec, said = both[0], [both[0].piece(token) for token in range(len(both[0].vocabulary))]
    assert sum(piece is not None for piece in said) > 0.45 * len(said)  # of the smallest vocabulary half are bytes
    assert not any(REPLACEMENT in piece for piece in said if piece is not None)
    before = codec.encode("so")
    for token, piece in enumerate(said[:3_000]):
        assert piece is None or codec.decode([*before, token, *before]) == codec.decode(before) + piece + codec.decode(
            [*before, *before])[len(codec.decode(before)) :]


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(prompt=ids, written=ids)
def test_what_is_shown_is_what_the_tokenizer_says(both: tuple[Codec, Slowly], prompt: list[int], written: list[int]) -> None:
    quick, slow = both
    assert shown(quick, prompt, written) == shown(slow, prompt, written)


@pytest.mark.parametrize("kind", KINDS)
def test_a_token_says_nothing_where_its_text_may_depend_on_others(kind: str) -> None:
    found = Tokenizer(models.WordLevel({"a": 0, "b": 1, " ": 2}, "a"))
    if KINDS[kind] is not None:
        found.decoder = KINDS[kind]
    assert Pieces(found)[1] is None


def test_a_token_is_asked_for_once() -> None:
    pieces = Pieces(Tokenizer.from_file(str(BUNDLED / "target" / "tokenizer.json")))
    assert pieces[300] == pieces[300]
    assert len(pieces) == 1
