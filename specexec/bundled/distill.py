"""Teaching the draft: the target's own distributions, on real stories and on stories the target wrote."""

import random
from collections.abc import Generator
from dataclasses import dataclass

import torch
from transformers import LlamaForCausalLM

from specexec.bundled.corpus import BOS, EOS
from specexec.bundled.shapes import CONTEXT

KEPT = 64  # of the target's likeliest tokens at each place: all but a hundredth of its mass, and 256 bytes
TOKENS = 4096  # a lesson
LENGTHS, LONG_ONES = (CONTEXT // 2, CONTEXT), 0.12  # of rows; mostly short ones, whose first story is as answers are


@dataclass(frozen=True)
class Lesson:
    """rows: int64[b, t], and what the target thinks at each place: fp16 log p[b t, KEPT] of int16 ids[b t, KEPT]."""

    rows: torch.Tensor
    log_p: torch.Tensor
    ids: torch.Tensor


class Lessons:
    """Rows of one length, each asked of the target once: its pass costs more than the draft's whole step."""

    def __init__(self, target: LlamaForCausalLM, stories: list[list[int]], length: int, rng: random.Random) -> None:
        rows, at_once = pack(stories, length, rng), TOKENS // length
        self.target, self.rng = target, rng
        self.batches = [torch.tensor(rows[i : i + at_once]) for i in range(0, len(rows) - at_once + 1, at_once)]
        self.known: dict[int, Lesson] = {}
        self.order: list[int] = []

    def next(self) -> Lesson:
        if not self.order:
            self.order = self.rng.sample(range(len(self.batches)), len(self.batches))
        index = self.order.pop()
        if index not in self.known:
            self.known[index] = self._ask(self.batches[index].to(self.target.device))
        return self.known[index]

    @torch.no_grad()
    def _ask(self, rows: torch.Tensor) -> Lesson:
        log_p = self.target(rows, use_cache=False).logits.log_softmax(-1).flatten(0, 1)
        values, ids = log_p.topk(KEPT)
        return Lesson(rows, values.half(), ids.short())


def pack(stories: list[list[int]], length: int, rng: random.Random) -> list[list[int]]:
    """Rows of `length` ids, each from the start of a story on, in random order; a story cut at a row's end loses its tail."""
    rows, row = [], list[int]()
    for i in rng.sample(range(len(stories)), len(stories)):
        row += [BOS, *stories[i], EOS]
        if len(row) >= length:
            rows.append(row[:length])
            row = []
    return rows


def lessons(target: LlamaForCausalLM, stories: list[list[int]], rng: random.Random) -> Generator[Lesson, int]:
    """Endless, short rows and now and then long ones. What is sent to it, it ignores."""
    short, long = (Lessons(target, stories, length, rng) for length in LENGTHS)
    while True:
        yield (long if rng.random() < LONG_ONES else short).next()


def divergence(draft: LlamaForCausalLM, lesson: Lesson) -> torch.Tensor:
    """KL(target || draft) a token, in nats; all that is not kept counts as one token."""
    log_q = draft(lesson.rows, use_cache=False).logits.log_softmax(-1).flatten(0, 1).gather(1, lesson.ids.long())
    log_p = lesson.log_p.float()
    p = log_p.exp()
    rest_p, rest_q = ((1 - x.sum(1)).clamp(min=1e-6) for x in (p, log_q.exp()))
    mean: torch.Tensor = ((p * (log_p - log_q)).sum(1) + rest_p * (rest_p / rest_q).log()).mean()
    return mean


@torch.no_grad()
def mean_divergence(draft: LlamaForCausalLM, target: LlamaForCausalLM, stories: list[list[int]]) -> float:
    """KL(target || draft) a token over `stories`, each from <s> in a window of its own, whole vocabulary."""
    total, count = 0.0, 0
    for story in stories:
        row = torch.tensor([[BOS, *story][:CONTEXT]], device=draft.device)
        log_p, log_q = (model(row, use_cache=False).logits.log_softmax(-1) for model in (target, draft))
        total, count = total + (log_p.exp() * (log_p - log_q)).sum().item(), count + row.numel()
    return total / count
