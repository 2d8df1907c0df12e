"""A model made by hand that recalls: after a token it writes what followed the same token before, however long ago.

Two layers (an induction head, Olsson et al. 2022): the first copies every token's predecessor beside it, by positions alone;
the second finds the place whose predecessor is the present token, and says what stands there. Tokens from FACTS on have a part
of their keys in common, as those of a passage have: of keys that share nothing the mean says next to nothing.
"""

from pathlib import Path

import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

VOCABULARY, DIM, WIDTH, HEAD = 512, 32, 128, 128
TOKEN, BEFORE, OUT = slice(0, DIM), slice(DIM, 2 * DIM), slice(2 * DIM, 3 * DIM)  # of the stream
FAST = 16  # pairs that tell one position from the next
SLOW = slice(48, 64)  # pairs that hardly turn within 65,536 positions
BASE = 1e8
FACTS, TOPIC = 400, 12  # the first token of a passage; dimensions that its tokens share


def config(layers: int = 2) -> Qwen2Config:
    return Qwen2Config(
        vocab_size=VOCABULARY, hidden_size=WIDTH, intermediate_size=64, num_hidden_layers=layers, num_attention_heads=1,
        num_key_value_heads=1, head_dim=HEAD, max_position_embeddings=131072,
        rope_parameters={"rope_type": "default", "rope_theta": BASE},
        tie_word_embeddings=False, bos_token_id=None, eos_token_id=None, pad_token_id=None, rms_norm_eps=1e-6)


@torch.no_grad()
def save(folder: Path, layers: int = 2) -> Path:
    """layers: all beyond the second do nothing, but that their keys and values are read."""
    model = Qwen2ForCausalLM(config(layers))
    for parameter in model.parameters():
        parameter.zero_()
    words = torch.randint(0, 2, (VOCABULARY, DIM), generator=torch.Generator().manual_seed(1)).float() * 2 - 1
    words[FACTS:, :TOPIC] = words[FACTS, :TOPIC]
    model.model.embed_tokens.weight[:, TOKEN] = words
    model.lm_head.weight[:, OUT] = words
    inner = [norm for layer in model.model.layers for norm in (layer.input_layernorm, layer.post_attention_layernorm)]
    for norm in (model.model.norm, *inner):
        norm.weight.fill_(1.0)
    first, second = (layer.self_attn for layer in model.model.layers[:2])
    angles = BASE ** (-torch.arange(FAST) / 64)
    first.q_proj.bias[:FAST], first.q_proj.bias[64 : 64 + FAST] = 16 * angles.cos(), -16 * angles.sin()
    first.k_proj.bias[:FAST] = 16.0
    _copy(first.v_proj.weight, torch.arange(DIM), TOKEN, 1.0)
    first.o_proj.weight[BEFORE, :DIM] = 0.5 * torch.eye(DIM)
    places = torch.cat((torch.arange(64)[SLOW], 64 + torch.arange(64)[SLOW]))
    _copy(second.q_proj.weight, places, TOKEN, 3.0)
    _copy(second.k_proj.weight, places, BEFORE, 3.0)
    _copy(second.v_proj.weight, torch.arange(DIM), TOKEN, 1.0)
    second.o_proj.weight[OUT, :DIM] = 4 * torch.eye(DIM)
    model.save_pretrained(folder)
    return folder


def _copy(weight: torch.Tensor, rows: torch.Tensor, columns: slice, scale: float) -> None:
    weight[rows, columns] = scale * torch.eye(DIM)


def text(length: int, tokens: int) -> tuple[list[int], list[int]]:
    """(filler with a fact of so many tokens at a tenth of it, ending with the fact's first four; the rest of the fact)."""
    random = torch.Generator().manual_seed(length)
    filler = torch.randint(0, FACTS, (length,), generator=random).tolist()
    fact = (FACTS + torch.randperm(VOCABULARY - FACTS, generator=random)[:tokens]).tolist()
    at = length // 10
    return [*filler[:at], *fact, *filler[at:], *fact[:4]], fact[4:]
