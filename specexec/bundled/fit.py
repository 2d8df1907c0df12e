"""Training one of the pair: Muon on the layers' matrices, AdamW on the rest, the best model on the dev stories kept."""

import copy
import logging
import math
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional
from transformers import LlamaForCausalLM

from specexec.bundled.corpus import BOS, EOS
from specexec.bundled.muon import Muon
from specexec.bundled.shapes import CONTEXT

log = logging.getLogger(__name__)

Batches = Generator[Any, int]  # of what the loss takes; it is sent the length of the next rows
Loss = Callable[[Any], torch.Tensor]


@dataclass(frozen=True)
class Schedule:
    """Steps are counted, not timed, so that a run can be repeated."""

    steps: int
    lr: float = 0.02
    lr_embedding: float = 3e-3
    weight_decay: float = 0.1
    judge_every: int = 100

    def scale(self, step: int) -> float:
        """Warm-up 2 %, flat to 40 %, then linear to zero."""
        done = step / self.steps
        return min(1.0, (done + 1e-3) / 0.02, (1 - done) / 0.6)

    def length(self, step: int) -> int:
        """Ids in a row: short rows learn faster, the last tenth learns the whole context."""
        done = step / self.steps
        return CONTEXT // 4 if done < 0.65 else CONTEXT // 2 if done < 0.9 else CONTEXT


def start(model: LlamaForCausalLM) -> None:
    """Matrices of unit gain, branches that begin as zero."""
    for name, p in model.named_parameters():
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            torch.nn.init.zeros_(p)
        elif name.endswith("_proj.weight"):
            torch.nn.init.normal_(p, std=p.shape[1] ** -0.5)


def cross_entropy(model: LlamaForCausalLM) -> Loss:
    def loss(batch: torch.Tensor) -> torch.Tensor:
        batch = batch.to(model.device)
        logits = model(batch[:, :-1], use_cache=False).logits
        return functional.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())

    return loss


@torch.no_grad()
def nats_per_token(model: LlamaForCausalLM, stories: list[list[int]]) -> float:
    """Mean -log p of the stories' tokens and their ends, each story from <s> in a window of its own."""
    total, count = 0.0, 0
    for i in range(0, len(stories), 10):
        part = sorted((([BOS, *s, EOS])[: CONTEXT + 1] for s in stories[i : i + 10]), key=len)
        ids = torch.nn.utils.rnn.pad_sequence([torch.tensor(p) for p in part], batch_first=True, padding_value=-100)
        ids = ids.to(model.device)
        logits = model(ids[:, :-1].clamp(min=0), use_cache=False).logits
        total += functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="sum").item()
        count += int((ids[:, 1:] >= 0).sum())
    return total / count


class Best:
    """Early stopping: the weights with the lowest loss on the dev stories so far."""

    def __init__(self, model: LlamaForCausalLM, judge: Callable[[], float]) -> None:
        self.model, self.judge, self.loss = model, judge, math.inf
        self.weights = model.state_dict()

    def look(self) -> float:
        self.model.eval()
        loss = self.judge()
        if loss < self.loss:
            self.loss, self.weights = loss, copy.deepcopy(self.model.state_dict())
        self.model.train()
        return loss


def fit(model: LlamaForCausalLM, batches: Batches, loss: Loss, judge: Callable[[], float], schedule: Schedule) -> float:
    """Trains `model` in place, leaves it with its best weights in eval mode, returns their dev loss in nats."""
    named = list(model.named_parameters())
    muon = Muon([p for n, p in named if n.endswith("_proj.weight")], schedule.lr, schedule.weight_decay)
    rest = [p for n, p in named if not n.endswith("_proj.weight")]
    adam = torch.optim.AdamW(rest, schedule.lr_embedding, (0.9, 0.95), weight_decay=0.0)
    best, began = Best(model, judge), time.monotonic()
    next(batches)
    model.train()
    for step in range(schedule.steps):
        scale = schedule.scale(step)
        value = loss(batches.send(schedule.length(step)))
        value.backward()  # type: ignore[no-untyped-call]
        muon.step(scale)
        for group in adam.param_groups:
            group["lr"] = schedule.lr_embedding * scale
        adam.step()
        model.zero_grad()
        if (step + 1) % schedule.judge_every == 0 or step + 1 == schedule.steps:
            spent = (time.monotonic() - began) / 60
            log.info("step %d  %.1f min  loss %.3f  dev %.4f", step + 1, spent, value.item(), best.look())
    model.load_state_dict(best.weights)
    model.eval()
    return best.loss
