"""One answer as it grows: its end, its stop strings, and text that is shown only once it is certain."""

import itertools
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cli.codec import Codec
from specexec.answer import REPLACEMENT, Answer, Endings, TextCodec

EOS = 0


class Bytes:
    """Implements TextCodec as byte-level tokenizers work: a token is bytes; the first 256 after EOS are the single ones."""

    def __init__(self, *longer: bytes) -> None:
        self.tokens = [b"", *(bytes([byte]) for byte in range(256)), *longer]

    def id(self, token: bytes | str) -> int:
        return self.tokens.index(token.encode() if isinstance(token, str) else token)

    def encode(self, text: str) -> list[int]:
        return [self.id(bytes([byte])) for byte in text.encode()]

    def decode(self, ids: Sequence[int]) -> str:
        return b"".join(self.tokens[i] for i in ids).decode("utf-8", "replace")

    def piece(self, token: int) -> str | None:
        said = self.decode([token])
        return None if REPLACEMENT in said else said


class Words(Bytes):
    """The same, for a list of words that are all its tokens need."""

    def __init__(self, *words: str | bytes) -> None:
        super().__init__(*(word.encode() if isinstance(word, str) else word for word in words))


def endings(*stops: str, eos: Sequence[int] = (EOS,), room: int = 1_000, max_tokens: int | None = None) -> Endings:
    return Endings(frozenset(eos), room, stops, max_tokens)


def fed(answer: Answer, *pieces: Sequence[int]) -> list[str]:
    """What each take() shows, and last what close() does."""
    return [*(answer.take(piece) for piece in pieces), answer.close("end")]


def said(codec: Words, ends: Endings, *words: str | bytes) -> tuple[list[str], Answer]:
    """The words taken one at a time."""
    answer = Answer(codec, [codec.id("A")], ends)
    return fed(answer, *([codec.id(word)] for word in words)), answer


# The end


def test_an_eos_inside_an_accepted_run_ends_the_answer_and_is_not_kept() -> None:
    codec = Words("one", "two", "three")
    answer = Answer(codec, [5], endings())
    assert answer.take([codec.id("one"), codec.id("two"), EOS, codec.id("three")]) == "onetwo"
    assert (answer.stop_reason, answer.ids, answer.text) == ("eos", [codec.id("one"), codec.id("two")], "onetwo")


@pytest.mark.parametrize("eos", [7, 9])
def test_any_of_several_eos_ids_ends_the_answer(eos: int) -> None:
    answer = Answer(Bytes(), [5], endings(eos=(7, 9)))
    answer.take([66, EOS, 67, eos, 68])
    assert (answer.stop_reason, answer.ids) == ("eos", [66, EOS, 67])


def test_an_eos_first_leaves_an_empty_answer() -> None:
    answer = Answer(Bytes(), [5], endings())
    assert (answer.take([EOS, 66]), answer.ids, answer.text, answer.stop_reason) == ("", [], "", "eos")


def test_the_limit_of_tokens_cuts_an_accepted_run() -> None:
    answer = Answer(Bytes(), [5], endings(max_tokens=2))
    assert (answer.take([66, 67, 68]), answer.ids, answer.stop_reason) == ("AB", [66, 67], "max_tokens")


def test_an_eos_behind_the_last_token_allowed_is_not_reached() -> None:
    answer = Answer(Bytes(), [5], endings(max_tokens=2))
    answer.take([66, 67, EOS])
    assert answer.stop_reason == "max_tokens"


def test_the_contexts_room_cuts_an_accepted_run() -> None:
    answer = Answer(Bytes(), [5], endings(room=2))
    assert (answer.take([66, 67, 68]), answer.ids, answer.stop_reason) == ("AB", [66, 67], "context")


@pytest.mark.parametrize(("ends", "reason"), [(endings(room=0), "context"), (endings(max_tokens=0), "max_tokens")])
def test_an_answer_without_room_has_ended_before_it_begins(ends: Endings, reason: str) -> None:
    answer = Answer(Bytes(), [5], ends)
    assert answer.stop_reason == reason
    assert (answer.take([66]), answer.ids, answer.text) == ("", [], "")


def test_an_answer_that_has_not_ended_has_no_reason() -> None:
    answer = Answer(Bytes(), [5], endings())
    answer.take([66])
    assert answer.stop_reason is None


def test_closing_gives_the_reason_but_never_replaces_one() -> None:
    open_, ended = Answer(Bytes(), [5], endings()), Answer(Bytes(), [5], endings(max_tokens=0))
    open_.close("interrupted")
    ended.close("interrupted")
    assert (open_.stop_reason, ended.stop_reason) == ("interrupted", "max_tokens")


def test_nothing_is_taken_after_the_end() -> None:
    answer = Answer(Bytes(), [5], endings())
    answer.take([66, EOS])
    assert (answer.take([67]), answer.close("end"), answer.ids, answer.text) == ("", "", [66], "A")


# Stop strings


def test_a_stop_inside_a_token_cuts_it_in_two() -> None:
    codec = Words("A", "one", "two.END.more")
    shown, answer = said(codec, endings("END"), "one", "two.END.more", "one")
    assert (shown, answer.text, answer.stop_reason) == (["one", "two.", "", ""], "onetwo.", "stop")
    assert codec.decode(answer.ids) == "onetwo."


def test_a_stop_that_spans_tokens_is_held_back_and_cut() -> None:
    shown, answer = said(Words("A", "one", "oneE", "N", "Dmore"), endings("END"), "oneE", "N", "Dmore")
    assert (shown, answer.text, answer.stop_reason) == (["one", "", "", ""], "one", "stop")


def test_what_turns_out_to_be_no_stop_is_released() -> None:
    shown, answer = said(Words("A", "oneE", "N", "TER"), endings("END"), "oneE", "N", "TER")
    assert (shown, answer.text, answer.stop_reason) == (["one", "", "ENTER", ""], "oneENTER", "end")


def test_only_what_may_begin_a_stop_is_held_back() -> None:
    shown, _ = said(Words("A", "aaab", "aab"), endings("aabc"), "aaab", "aab")
    assert shown == ["a", "aab", "aab"]


@pytest.mark.parametrize("reason", ["eos", "close", "max_tokens"])
def test_held_text_is_shown_when_the_answer_ends_otherwise(reason: str) -> None:
    codec = Words("A", "oneEN")
    answer = Answer(codec, [5], endings("END", max_tokens=1 if reason == "max_tokens" else None))
    shown = answer.take([codec.id("oneEN")] + [EOS] * (reason == "eos")) + answer.close("close")
    assert (shown, answer.text, answer.stop_reason) == ("oneEN", "oneEN", reason)


def test_the_first_of_two_stops_in_the_text_ends_it() -> None:
    for stops in (("X", "YY"), ("YY", "X")):
        assert said(Words("A", "aYYbXc"), endings(*stops), "aYYbXc")[1].text == "a"
        assert said(Words("A", "aXbYYc"), endings(*stops), "aXbYYc")[1].text == "a"


def test_two_stops_that_may_begin_are_both_waited_for() -> None:
    shown, answer = said(Words("A", "a<", "<", "e", "x"), endings("<<end", "<e"), "a<", "<", "e", "x")
    assert (shown, answer.text, answer.stop_reason) == (["a", "", "<", "", ""], "a<", "stop")


def test_a_stop_at_the_very_start_leaves_nothing() -> None:
    for words in (["ENDone"], ["EN", "Done"], ["E", "ND"]):
        shown, answer = said(Words("A", *words), endings("END"), *words)
        assert ("".join(shown), answer.text, answer.ids, answer.stop_reason) == ("", "", [], "stop")


def test_a_stop_in_the_prompt_ends_nothing() -> None:
    codec = Words("A", "prompt END", "one")
    answer = Answer(codec, [codec.id("prompt END")], endings("END"))
    assert answer.take([codec.id("one")]) == "one"


def test_a_stop_is_no_stop_where_the_prompt_holds_its_beginning() -> None:
    codec = Words("A", "prompt E", "NDone")
    answer = Answer(codec, [codec.id("prompt E")], endings("END"))
    assert answer.take([codec.id("NDone")]) == "NDone"


def test_a_stop_in_the_last_token_allowed_is_the_reason() -> None:
    codec = Words("A", "oneEND")
    answer = Answer(codec, [5], endings("END", max_tokens=1))
    assert (answer.take([codec.id("oneEND")]), answer.stop_reason) == ("one", "stop")


def test_a_stop_before_an_eos_in_one_run_is_the_reason() -> None:
    codec = Words("A", "oneEND")
    answer = Answer(codec, [5], endings("END"))
    answer.take([codec.id("oneEND"), EOS])
    assert (answer.stop_reason, answer.text) == ("stop", "one")


@pytest.mark.parametrize("last", [EOS, None])
def test_a_stop_is_found_though_the_token_that_ends_it_begins_a_character(last: int | None) -> None:
    codec = Words("A", b"oneEND\xe2")
    answer = Answer(codec, [5], endings("END"))
    shown = answer.take([codec.id(b"oneEND\xe2")] + ([] if last is None else [last])) + answer.close("close")
    assert (shown, answer.text) == ("one", "one")


# Characters


def test_a_character_split_over_tokens_waits_until_it_is_whole() -> None:
    shown, answer = said(Words("A", b"a\xf0\x9f", b"\xa6", b"\x84b"), endings(), b"a\xf0\x9f", b"\xa6", b"\x84b")
    assert "".join(shown) == answer.text == "a🦄b"
    assert "\ufffd" not in "".join(shown)
    assert shown[2] == "a🦄b" or shown[:3] == ["a", "", "🦄b"]


def test_an_answer_that_ends_within_a_character_shows_what_its_bytes_decode_to() -> None:
    shown, answer = said(Words("A", b"a", b"\xf0\x9f"), endings(), b"a", b"\xf0\x9f")
    assert ("".join(shown), answer.text) == ("a\ufffd", "a\ufffd")


def test_a_stop_may_be_a_character_split_over_tokens() -> None:
    shown, answer = said(Words("A", b"a", b"\xf0\x9f", b"\xa6\x84b"), endings("🦄"), b"a", b"\xf0\x9f", b"\xa6\x84b")
    assert (shown, answer.text, answer.stop_reason) == (["a", "", "", ""], "a", "stop")


def test_bytes_that_are_no_character_do_not_hold_up_the_text_behind_them() -> None:
    shown, _ = said(Words("A", b"\xff", b"b", b"c"), endings(), b"\xff", b"b", b"c")
    assert shown == ["", "\ufffdb", "c", ""]


def test_what_was_shown_is_not_shown_again() -> None:
    shown, _ = said(Words("A", "x"), endings(), *["x"] * 30)
    assert shown == ["x"] * 30 + [""]


# Whatever the tokens and however they come

LONGER = (b"ab", b"ba", b"EN", b"D", b"xEND", b"\xc3", b"\xa9a", b"\xf0\x9f", b"\xa6\x84", "é€".encode(), b"aENaEND")
CODEC = Bytes(*LONGER)
byte_tokens = st.lists(st.one_of(st.sampled_from([CODEC.id(token) for token in LONGER]), st.integers(0, 256)), max_size=24)
texts = st.lists(
    st.sampled_from([CODEC.id(token) for token in (b"ab", b"ba", b"EN", b"D", b"E", b"N", b"a", b"xEND", "é€".encode())]),
    max_size=24)
cuts = st.lists(st.integers(0, 4), max_size=24)
stop_sets = st.lists(st.sampled_from(["END", "ENa", "ba", "é", "bab", "a", "DE"]), max_size=3, unique=True)


def in_pieces(tokens: Sequence[int], cuts: Sequence[int]) -> list[list[int]]:
    left, pieces = list(tokens), []
    for cut in cuts:
        pieces.append(left[:cut])
        left = left[cut:]
    return [*pieces, left]


@given(byte_tokens, cuts, stop_sets, st.integers(1, 30))
def test_all_that_is_shown_is_the_text(tokens: list[int], cuts: list[int], stops: list[str], most: int) -> None:
    answer = Answer(CODEC, [5], endings(*stops, max_tokens=most))
    assert "".join(fed(answer, *in_pieces(tokens, cuts))) == answer.text


@given(byte_tokens, cuts, stop_sets)
def test_the_text_does_not_depend_on_how_tokens_come_together(tokens: list[int], cuts: list[int], stops: list[str]) -> None:
    together, apart = (Answer(CODEC, [5], endings(*stops)) for _ in range(2))
    fed(together, tokens)
    fed(apart, *in_pieces(tokens, cuts))
    assert (apart.text, apart.ids, apart.stop_reason) == (together.text, together.ids, together.stop_reason)


@given(texts, cuts, stop_sets)
def test_kept_ids_decode_to_the_text(tokens: list[int], cuts: list[int], stops: list[str]) -> None:
    answer = Answer(CODEC, [5], endings(*stops))
    fed(answer, *in_pieces(tokens, cuts))
    assert CODEC.decode(answer.ids) == answer.text


@given(byte_tokens, cuts)
def test_without_stops_the_text_is_what_the_ids_decode_to(tokens: list[int], cuts: list[int]) -> None:
    answer = Answer(CODEC, [5], endings(eos=()))
    fed(answer, *in_pieces(tokens, cuts))
    assert (answer.ids, answer.text) == (tokens, CODEC.decode(tokens))


@given(texts, stop_sets)
def test_no_stop_is_ever_shown(tokens: list[int], stops: list[str]) -> None:
    answer, shown = Answer(CODEC, [5], endings(*stops)), ""
    for token in tokens:
        shown += answer.take([token])
        assert not any(stop in shown for stop in stops)
    assert answer.text.startswith(shown)
    whole = CODEC.decode(tokens)
    assert (answer.stop_reason == "stop") == any(stop in whole for stop in stops)
    assert whole.startswith(answer.text)


@given(texts, stop_sets)
def test_text_is_held_back_only_where_a_stop_may_begin(tokens: list[int], stops: list[str]) -> None:
    answer, shown = Answer(CODEC, [5], endings(*stops)), ""
    for token in tokens:
        shown += answer.take([token])
        held = answer.text[len(shown) :]
        assert not held or any(stop.startswith(held) for stop in stops)


# Tokenizers as published

TOKENIZERS = ["tokenizers/mistral-v1", "models/stories260k", "tokenizers/gpt2"]
RARE = [
    "🦄🦄🦄🦄 and 🦄!", "𓀀𓀁𓀂𓀃𓀄", "漢字𠀀𠀁𠀂かな", "é€ña", "a\u0301\u0302", "  two  spaces \n\n\tand more", "نص",
    "🏳️\u200d🌈🏳️\u200d🌈",
]
PIECES = st.lists(st.sampled_from([*RARE, " the", " cat", "s", "ing", " ", "\n", "漢", "🦄"]), max_size=12)
ORDINARY = "Once upon a time, there was a cat."


@pytest.fixture(scope="module", params=TOKENIZERS)
def codec(request: pytest.FixtureRequest, shared: Path) -> TextCodec:
    return Codec(shared / request.param)


@pytest.fixture(scope="module", params=[name for name in TOKENIZERS if "gpt2" not in name])
def sentencepiece(request: pytest.FixtureRequest, shared: Path) -> TextCodec:
    """One that begins a text with a space, and falls back to bytes."""
    return Codec(shared / request.param)


def continued(codec: TextCodec, prompt: str, text: str) -> tuple[list[int], list[int]]:
    """(ids of the prompt, ids of `text` behind it)"""
    whole, before = codec.encode(prompt + text), codec.encode(prompt)
    shared = next((i for i, (a, b) in enumerate(zip(whole, before, strict=False)) if a != b), len(before))
    return whole[:shared], whole[shared:]


def expected(codec: TextCodec, prompt: Sequence[int], ids: Sequence[int]) -> str:
    return codec.decode([*prompt, *ids])[len(codec.decode(prompt)) :]


@pytest.mark.parametrize("text", [ORDINARY, *RARE], ids=range(1 + len(RARE)))
def test_a_published_tokenizers_text_comes_out_whole(codec: TextCodec, text: str) -> None:
    for prompt in ("Tell me:\n", "🦄🦄 ", "x"):
        before, ids = continued(codec, prompt, text)
        answer = Answer(codec, before, endings(eos=()))
        assert "".join(fed(answer, *([token] for token in ids))) == answer.text == expected(codec, before, ids)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=PIECES.map("".join), cuts=cuts)
def test_any_text_of_a_published_tokenizer_comes_out_whole(codec: TextCodec, text: str, cuts: list[int]) -> None:
    before, ids = continued(codec, "Tell me:\n", text)
    answer = Answer(codec, before, endings(eos=()))
    assert "".join(fed(answer, *in_pieces(ids, cuts))) == answer.text == expected(codec, before, ids)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    ids=st.lists(st.integers(3, 511), max_size=20), cuts=cuts, stops=st.lists(st.sampled_from([" the", "e", "\n"]), max_size=2))
def test_all_that_is_shown_of_any_ids_is_the_text(codec: TextCodec, ids: list[int], cuts: list[int], stops: list[str]) -> None:
    answer = Answer(codec, codec.encode("Tell me:\n"), endings(*stops, eos=()))
    assert "".join(fed(answer, *in_pieces(ids, cuts))) == answer.text


@pytest.mark.parametrize("stop", ["upon", "pon a", " time", "ime", "n", "e,"])
def test_a_published_tokenizers_kept_ids_decode_to_the_text_before_a_stop(codec: TextCodec, stop: str) -> None:
    before, ids = continued(codec, "Tell me:\n", ORDINARY)
    answer = Answer(codec, before, endings(stop))
    assert "".join(fed(answer, *([token] for token in ids))) == answer.text == ORDINARY.split(stop)[0]
    assert expected(codec, before, answer.ids) == answer.text


def test_a_run_of_byte_tokens_is_shown_character_by_character(sentencepiece: TextCodec) -> None:
    before, ids = continued(sentencepiece, "Tell me:\n", "𓀀𓀁𓀂𓀃𓀄")
    answer = Answer(sentencepiece, before, endings(eos=()))
    lengths = list(itertools.accumulate(len(answer.take([token])) for token in ids))
    assert lengths[-1] == 5
    assert lengths[11] >= 3
