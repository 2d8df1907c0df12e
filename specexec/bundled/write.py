"""Stories the target writes for the draft to learn from: many side by side, sampled at temperature 1."""

from typing import Any

import torch
from torch.nn import functional
from transformers import LlamaForCausalLM
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from specexec.bundled.corpus import BOS, EOS
from specexec.bundled.shapes import CONTEXT

SIDE_BY_SIDE = 256
LONGEST = CONTEXT // 2


class Page:
    """Stories in the making. (transformers' generate() copies all keys once a token and takes four times as long.)"""

    def __init__(self, target: LlamaForCausalLM, count: int) -> None:
        config = target.config
        self.target = target
        shape = (count, config.num_key_value_heads, LONGEST, config.head_dim)
        layers = len(target.model.layers)
        self.kv = [(torch.empty(shape, device=target.device), torch.empty(shape, device=target.device)) for _ in range(layers)]
        positions = torch.arange(LONGEST, device=target.device)[None]
        self.cos, self.sin = target.model.rotary_emb(self.kv[0][0], positions)

    def logits(self, ids: torch.Tensor, place: int) -> torch.Tensor:
        """The next tokens' logits fp32[count, vocabulary] after `ids` int64[count] at position `place`."""
        model = self.target.model
        x = model.embed_tokens(ids)
        for layer, kv in zip(model.layers, self.kv, strict=True):
            x = x + self._attention(layer, layer.input_layernorm(x), kv, place)
            x = x + layer.mlp(layer.post_attention_layernorm(x))
        logits: torch.Tensor = self.target.lm_head(model.norm(x))
        return logits

    def _attention(self, layer: Any, x: torch.Tensor, kv: tuple[torch.Tensor, torch.Tensor], place: int) -> torch.Tensor:
        attention, (keys, values) = layer.self_attn, kv
        count, groups, _, width = keys.shape
        q, k, v = (p(x).view(count, -1, 1, width) for p in (attention.q_proj, attention.k_proj, attention.v_proj))
        q, k = apply_rotary_pos_emb(q, k, self.cos[:, place : place + 1], self.sin[:, place : place + 1])
        keys[:, :, place], values[:, :, place] = k[:, :, 0], v[:, :, 0]
        seen = slice(0, place + 1)
        out = functional.scaled_dot_product_attention(q.view(count, groups, -1, width), keys[:, :, seen], values[:, :, seen])
        mixed: torch.Tensor = attention.o_proj(out.reshape(count, -1))
        return mixed

    def keep(self, rows: torch.Tensor) -> None:
        self.kv = [(k[rows], v[rows]) for k, v in self.kv]


@torch.no_grad()
def _write_page(target: LlamaForCausalLM, count: int) -> list[list[int]]:
    page, stories = Page(target, count), [[] for _ in range(count)]  # type: tuple[Page, list[list[int]]]
    open_ones = list(range(count))
    ids = torch.full((count,), BOS, device=target.device)
    alive = torch.ones_like(ids, dtype=torch.bool)
    for place in range(LONGEST):
        chances = page.logits(ids, place).softmax(-1)
        ids = (chances / torch.empty_like(chances).exponential_()).argmax(-1)
        for story, token in zip(open_ones, ids.tolist(), strict=True):
            stories[story].append(token)
        alive &= ids != EOS
        going = alive.nonzero()[:, 0]
        if not len(going):
            break
        if len(going) < 0.9 * len(ids):  # a copy of all keys: not for every story that ends
            page.keep(going)
            ids, alive, open_ones = ids[going], alive[going], [open_ones[i] for i in going.tolist()]
    return [story[: story.index(EOS)] if EOS in story else story for story in stories]


def write_stories(target: LlamaForCausalLM, count: int, seed: int) -> list[list[int]]:
    """`count` stories sampled from the target at temperature 1, ids without <s> and </s>, at most `LONGEST` of them."""
    torch.manual_seed(seed)
    stories: list[list[int]] = []
    while len(stories) < count:
        stories += _write_page(target, SIDE_BY_SIDE)
    return stories[:count]
