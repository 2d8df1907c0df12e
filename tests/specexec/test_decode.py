"""The decode loop and its figures, with toy engines whose every distribution is known."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import pytest
import torch

from specexec.answer import Answer, Endings
from specexec.budget import Auto
from specexec.budget import Fixed as Always
from specexec.decode import Step, decode
from specexec.drafters.grow import Grow, Nothing
from specexec.drafters.model import ModelExpander
from specexec.errors import Interrupted
from specexec.noise import Noise
from specexec.report import Report
from specexec.roles import Drafter, Limits, Pass, Reader, Worth
from specexec.sampling import Sampling
from specexec.tree import ROOT, DraftTree
from specexec.verify import Picks, Verdict
from specexec.vocabulary import Vocabulary

VOCABULARY, BLOCK = 6, 3
ROUNDING = 1e-4
START = 5  # the prompt; blocks are counted from behind it


class ToyEngine:
    """Implements Target: a token's distribution depends on those before it in its block of three.

    table: fp32[1 + 6 + 36, 6], the logits after nothing, after one token, after two.
    """

    def __init__(self, table: torch.Tensor, context: int = 10_000, tree: int = 1_000) -> None:
        self.table, self.limits = table, Limits(context, tree, VOCABULARY)
        self.calls: list[tuple[list[int], DraftTree, int]] = []
        self._tokens: Sequence[int] = ()
        self.missing, self.waited = 0, 0.0

    def sync(self, tokens: Sequence[int]) -> None:
        self._tokens = tokens

    def forward(self, tree: DraftTree, reader: Reader, first: int = 0) -> None:
        assert len(tree) <= self.limits.tree
        self.calls.append((list(self._tokens), tree, first))
        before = len(self._tokens) + 1  # node 0 included
        assert before + max(tree.depth) <= self.limits.context
        block = (before - 1) % BLOCK
        blocks = [[*self._tokens[len(self._tokens) + 1 - block :], tree.tokens[0]] if block else []]
        for node in range(1, len(tree)):
            above = blocks[tree.parents[node]]
            blocks.append([*above, tree.tokens[node]] if len(above) < BLOCK - 1 else [])
        reader(first, self.table[[row_of(block) for block in blocks[first:]]])

    def extend(self, token: int, pick: Callable[[torch.Tensor], int | None], seconds: float) -> None:
        following: int | None = token
        until = time.perf_counter() + seconds
        while following is not None:
            rows: list[torch.Tensor] = []
            self.forward(DraftTree((following,)), lambda _, logits: rows.append(logits))  # noqa: B023
            self._tokens, following = [*self._tokens, following], pick(rows[0])
            if time.perf_counter() > until:
                return


def row_of(block: Sequence[int]) -> int:
    """Where in a table the tokens of an unfinished block lead."""
    if len(block) < 2:
        return 1 + block[0] if block else 0
    return 1 + VOCABULARY + VOCABULARY * block[0] + block[1]


def table(seed: int, spread: float = 1.2) -> torch.Tensor:
    source = torch.Generator().manual_seed(seed)
    return spread * torch.randn(1 + VOCABULARY + VOCABULARY**2, VOCABULARY, generator=source)


class Letters:
    """Implements TextCodec: token 0 is a, 1 is b ..."""

    def encode(self, text: str) -> list[int]:
        return [ord(letter) - ord("a") for letter in text]

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(chr(ord("a") + token) for token in ids)

    def piece(self, token: int) -> str:
        return self.decode([token])


class Fixed:
    """Implements Drafter: always the same tokens below the root, as a chain."""

    def __init__(self, *tokens: int) -> None:
        self.tokens = tokens
        self.learned: list[tuple[DraftTree, Picks, Verdict]] = []
        self.events: list[str] = []

    def draft(self, context: Sequence[int], worth: Worth, sampling: Sampling, noise: Noise) -> DraftTree:
        self.events.append("draft")
        n = len(self.tokens)
        chances = (1.0, *[0.5] * n)
        return DraftTree((context[-1], *self.tokens), tuple(range(ROOT, n)), (0.0,) * (n + 1), ("test",) * (n + 1), chances)

    def learn(self, tree: DraftTree, picks: Picks, verdict: Verdict) -> None:
        self.events.append("learn")
        self.learned.append((tree, picks, verdict))

    @contextmanager
    def meanwhile(self, tree: DraftTree) -> Iterator[None]:
        self.events.append("enter")
        yield
        self.events.append("leave")


def answer_of(tokens: int, prompt: Sequence[int] = (START,), **endings: object) -> Answer:
    return Answer(Letters(), prompt, Endings(frozenset(), 10_000, max_tokens=tokens, **endings))  # type: ignore[arg-type]


def steps(
    target: ToyEngine, drafter: Drafter, answer: Answer, sampling: Sampling | None = None, *, seed: int = 0, number: int = 0,
    budget: int = 5,
) -> list[Step]:
    """Writes `answer` after the prompt START."""
    sampling = sampling or Sampling()
    noise = Noise(seed, number, 1, VOCABULARY, silent=sampling.temperature == 0)
    return list(decode(target, drafter, Always(budget), sampling, noise, [START], answer))


def model_drafter(model: ToyEngine, a: float = 1.0, b: float = 1.0) -> Grow:
    """SpecExec growth from `model`, with a belief that starts at a and b."""
    expander = ModelExpander(model, Vocabulary(None))
    expander.belief._fit.weights = np.array([a, b])
    return Grow([expander], model.limits.context)


def always(*tokens: int) -> ToyEngine:
    """An engine sure of a repeating block of three tokens."""
    wanted = torch.zeros(1 + VOCABULARY + VOCABULARY**2, VOCABULARY)
    wanted[0, tokens[0]] = wanted[1 + tokens[0], tokens[1]] = wanted[row_of(tokens[:2]), tokens[2]] = 50.0
    return ToyEngine(wanted)


DRAFTERS: dict[str, Callable[[], Drafter]] = {
    "plain": Nothing, "model": lambda: model_drafter(ToyEngine(table(0))), "fixed": lambda: Fixed(0, 1, 2)}


@pytest.mark.parametrize("make", DRAFTERS.values(), ids=list(DRAFTERS))
def test_there_is_one_target_pass_a_step(make: Callable[[], Drafter]) -> None:
    target = ToyEngine(table(0))
    taken = steps(target, make(), answer_of(20))
    assert [tree for _, tree, _ in target.calls] == [step.tree for step in taken]
    assert all(first == 0 for _, _, first in target.calls)


@pytest.mark.parametrize("make", DRAFTERS.values(), ids=list(DRAFTERS))
def test_the_cache_holds_all_but_the_pending_token_which_is_the_root(make: Callable[[], Drafter]) -> None:
    target, answer = ToyEngine(table(0)), answer_of(20)
    taken, written = steps(target, make(), answer), [START]
    for step, (cached, tree, _) in zip(taken, target.calls, strict=True):
        assert [*cached, tree.tokens[0]] == written
        written += step.verdict.tokens
    assert written[1:21] == answer.ids


def test_plain_decoding_takes_a_pass_a_token() -> None:
    assert len(steps(ToyEngine(table(0)), Nothing(), answer_of(20))) == 20


# A stretch of plain passes


SAMPLINGS = [Sampling(temperature=0.0), Sampling(), Sampling(temperature=0.7, top_k=3), Sampling(top_p=0.8)]


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_plain_passes_that_take_no_time_come_together_and_write_the_same(sampling: Sampling) -> None:
    one_by_one, together = answer_of(40), answer_of(40)
    first = steps(ToyEngine(table(0)), Nothing(), one_by_one, sampling)
    taken = steps(ToyEngine(table(0)), Nothing(), together, sampling, budget=0)
    assert (len(first), sum(step.passes for step in taken)) == (40, 40)
    assert len(taken) < 20
    assert (together.ids, together.text) == (one_by_one.ids, one_by_one.text)
    margins = [margin for step in taken for margin in step.verdict.margins]
    assert margins == pytest.approx([step.verdict.margins[0] for step in first])


def test_slow_plain_passes_come_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("specexec.decode.AT_ONCE", 0.0)
    assert len(steps(ToyEngine(table(0)), Nothing(), answer_of(20), budget=0)) == 20


def test_a_stretch_ends_at_an_end() -> None:
    target, answer = always(1, 2, 3), Answer(Letters(), [START], Endings(frozenset({3}), 10_000))
    steps(target, Nothing(), answer, Sampling(temperature=0.0), budget=0)
    assert (answer.ids, answer.stop_reason, len(target.calls)) == ([1, 2], "eos", 3)


def test_a_stop_string_within_a_stretch_ends_the_text_there() -> None:
    answer = answer_of(40, stops=("db",))
    steps(always(1, 2, 3), Nothing(), answer, Sampling(temperature=0.0), budget=0)
    assert (answer.ids, answer.text, answer.stop_reason) == ([1, 2], "bc", "stop")


def test_penalties_change_with_every_token_so_there_is_no_stretch() -> None:
    answer, forbid = answer_of(VOCABULARY), Sampling(temperature=0.0, presence_penalty=1_000.0)
    assert len(steps(always(1, 2, 3), Nothing(), answer, forbid, budget=0)) == VOCABULARY
    assert sorted(answer.ids) == list(range(VOCABULARY))


def test_ctrl_c_in_a_stretch_loses_nothing_that_was_picked() -> None:
    class Stopped(ToyEngine):
        def forward(self, tree: DraftTree, reader: Reader, first: int = 0) -> None:
            if len(self.calls) == 5:
                raise Interrupted
            super().forward(tree, reader, first)

    answer, before = answer_of(40), answer_of(5)
    with pytest.raises(Interrupted):
        steps(Stopped(table(0)), Nothing(), answer, budget=0)
    steps(ToyEngine(table(0)), Nothing(), before, budget=0)
    assert (answer.ids, answer.text) == (before.ids, before.text)


def test_a_budget_that_sleeps_says_for_how_long() -> None:
    budget, passes = Auto(64), []
    for _ in range(10):
        passes.append(budget.worth(0).passes)
        for _ in range(passes[-1]):
            budget.learn(Pass(0, 1, 1, 0.0, 0.1))
    assert passes == [1, 1, 1, 1, 1, 3, 1, 7, 1, 15]


def test_a_perfect_greedy_draft_of_five_nodes_takes_a_pass_for_six_tokens() -> None:
    taken = steps(always(1, 2, 3), Fixed(1, 2, 3, 1, 2), answer_of(6), Sampling(temperature=0.0))
    assert [step.verdict.tokens for step in taken] == [(1, 2, 3, 1, 2, 3)]


def test_the_steps_texts_make_up_the_answers() -> None:
    answer = answer_of(30)
    taken = steps(ToyEngine(table(0)), Fixed(0, 1, 2), answer)
    assert "".join(step.text for step in taken) == answer.text == Letters().decode(answer.ids)


def test_tokens_behind_the_end_are_neither_kept_nor_shown() -> None:
    answer = answer_of(4)
    steps(always(1, 2, 3), Fixed(1, 2, 3, 1, 2), answer, Sampling(temperature=0.0))
    assert (answer.ids, answer.text, answer.stop_reason) == ([1, 2, 3, 1], "bcdb", "max_tokens")


def test_an_answer_that_has_ended_takes_no_pass() -> None:
    target = ToyEngine(table(0))
    assert steps(target, Nothing(), answer_of(0)) == []
    assert target.calls == []


def test_the_drafter_learns_from_every_pass_after_its_forward() -> None:
    drafter = Fixed(0, 1, 2)
    taken = steps(ToyEngine(table(0)), drafter, answer_of(20))
    assert drafter.events == ["draft", "enter", "leave", "learn"] * len(taken)
    assert [(tree, verdict) for tree, _, verdict in drafter.learned] == [(step.tree, step.verdict) for step in taken]
    assert all(token >= 0 for _, picks, _ in drafter.learned for token in picks.tokens)


def test_penalties_follow_the_answer_from_pass_to_pass() -> None:
    forbid = Sampling(temperature=0.0, presence_penalty=1_000.0)
    for drafter in (Nothing(), Fixed(1, 2, 3, 1, 2)):
        answer = answer_of(VOCABULARY)
        steps(always(1, 2, 3), drafter, answer, forbid)
        assert sorted(answer.ids) == list(range(VOCABULARY))


def test_presence_penalties_leave_the_prompt_out() -> None:
    answer = answer_of(1)
    steps(always(START, 2, 3), Nothing(), answer, Sampling(temperature=0.0, presence_penalty=1_000.0))
    assert answer.ids == [START]


# Figures


def step_of(*margins: float, tree: DraftTree | None = None, seconds: tuple[float, float] = (0.25, 1.0)) -> Step:
    tree = tree or DraftTree((0,))
    return Step(tree, Verdict(tuple(range(len(margins))), (0,) * len(margins), margins), "", *seconds)


def reported(*taken: Step) -> Report:
    report = Report(ROUNDING)
    for step in taken:
        report.add(step)
    return report


def test_a_report_of_nothing_has_no_rates() -> None:
    report = reported()
    assert (report.tokens_per_pass, report.predicted_tokens_per_pass, report.first_close_call) == (None, None, None)


def test_a_report_adds_up_passes_tokens_and_seconds() -> None:
    report = reported(step_of(1.0, 1.0, 1.0), step_of(1.0, seconds=(0.5, 2.0)))
    assert (report.passes, report.tokens, report.accepted, report.tokens_per_pass) == (2, 4, [3, 1], 2.0)
    assert (report.draft_seconds, report.target_seconds, report.first_seconds) == (0.75, 3.0, 1.25)


def test_a_report_counts_drafted_nodes_without_the_root() -> None:
    three = Fixed(1, 2, 3).draft([0], Worth(3), Sampling(), Noise(0, 0, 1, 6))
    report = reported(step_of(1.0, tree=three), step_of(1.0))
    assert (report.drafted, report.budget) == (3, 0)


def test_predicted_tokens_are_the_bonus_and_the_sum_of_chances() -> None:
    three = Fixed(1, 2, 3).draft([0], Worth(3), Sampling(), Noise(0, 0, 1, 6))
    assert reported(step_of(1.0, tree=three), step_of(1.0)).predicted_tokens_per_pass == pytest.approx((2.5 + 1) / 2)


@pytest.mark.parametrize(("margins", "expected"), [
    ([[1.0, 1.0], [1.0]], None), ([[0.0]], 0), ([[1.0, 1.0], [1.0, 1e-5, 0.0]], 3), ([[1.0, 1e-5], [1e-6]], 1),
    ([[ROUNDING]], None), ([[0.99 * ROUNDING]], 0),
])
def test_the_first_close_call_is_an_index_into_the_tokens(margins: list[list[float]], expected: int | None) -> None:
    assert reported(*(step_of(*each) for each in margins)).first_close_call == expected


def test_a_near_tie_of_the_target_is_reported_where_it_happens() -> None:
    target = always(1, 2, 3)
    target.table[row_of((1, 2)), 4] = 50.0 - 1e-5
    for drafter in (Nothing(), Fixed(1, 2, 3, 1)):
        report = reported(*steps(target, drafter, answer_of(5), Sampling(temperature=0.0)))
        assert report.first_close_call == 2


def test_passes_take_time() -> None:
    report = reported(*steps(ToyEngine(table(0)), model_drafter(ToyEngine(table(0))), answer_of(5)))
    assert min(report.draft_seconds, report.target_seconds, report.first_seconds) > 0
    assert report.first_seconds <= report.draft_seconds + report.target_seconds


def test_calibrated_chances_predict_tokens_a_pass() -> None:
    report = Report(ROUNDING)
    drafter = model_drafter(ToyEngine(table(0) + 0.5 * table(1)))
    for number in range(2):
        taken = steps(ToyEngine(table(0)), drafter, answer_of(250), number=number, budget=8)
        if number:
            for step in taken:
                report.add(step)
    assert report.predicted_tokens_per_pass == pytest.approx(report.tokens_per_pass, rel=0.12)
