"""Teaching the draft: the target's own distributions, on real stories and on stories the target wrote."""

import random
from collections.abc import Generator

import torch
from torch.nn import functional
from transformers import LlamaForCausalLM

from specexec.bundled.corpus import BOS, EOS
from specexec.bundled.fit import Batches, Loss
from specexec.bundled.shapes import CONTEXT

SIDE_BY_SIDE = 256


@torch.no_grad()
def write_stories(target: LlamaForCausalLM, count: int, seed: int) -> list[list[int]]:
    """`count` stories sampled from the target at temperature 1, ids without <s> and </s>."""
    torch.manual_seed(seed)
    stories: list[list[int]] = []
    while len(stories) < count:
        prompt = torch.full((SIDE_BY_SIDE, 1), BOS, device=target.device)
        written = target.generate(
            prompt, attention_mask=torch.ones_like(prompt), do_sample=True, temperature=1.0, top_k=0,
            max_length=CONTEXT // 2, pad_token_id=EOS)
        stories += [_until_end(row[1:]) for row in written.tolist()]
    return stories[:count]


def _until_end(ids: list[int]) -> list[int]:
    return ids[: ids.index(EOS)] if EOS in ids else ids


def alternate(real: Batches, written: Batches, rng: random.Random) -> Generator[torch.Tensor, int]:
    """One batch of real rows for two of written ones: the draft meets the target's own text when it is used."""
    next(real)
    next(written)
    length = yield torch.empty(0, dtype=torch.int64)
    while True:
        length = yield (real if rng.random() < 1 / 3 else written).send(length)


def divergence(draft: LlamaForCausalLM, target: LlamaForCausalLM) -> Loss:
    """KL(target || draft) a token, in nats."""

    def loss(inputs: torch.Tensor, batch: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            wanted = target(inputs, use_cache=False).logits.log_softmax(-1).flatten(0, 1)
        got = draft(inputs, use_cache=False).logits.log_softmax(-1).flatten(0, 1)
        return functional.kl_div(got, wanted, reduction="batchmean", log_target=True)

    return loss


@torch.no_grad()
def mean_divergence(draft: LlamaForCausalLM, target: LlamaForCausalLM, stories: list[list[int]]) -> float:
    """KL(target || draft) a token over `stories`, each from <s> in a window of its own."""
    loss, total, count = divergence(draft, target), 0.0, 0
    for story in stories:
        row = torch.tensor([[BOS, *story][:CONTEXT]], device=draft.device)
        total, count = total + loss(row, row).item() * row.numel(), count + row.numel()
    return total / count
