"""Dropout for a transformers Llama, which has none on its residual branches."""

import torch
from torch.nn import functional
from torch.utils.hooks import RemovableHandle
from transformers import LlamaForCausalLM


def _one_mask_for_all_rows(x: torch.Tensor, rate: float) -> torch.Tensor:
    # random numbers for every row would cost a tenth of the step
    return x * functional.dropout(torch.ones(x.shape[1:], dtype=x.dtype, device=x.device), rate)


def add_dropout(model: LlamaForCausalLM, rate: float) -> list[RemovableHandle]:
    """Drops outputs of the embedding, of attention and of the MLP while `model` trains; returns the hooks."""

    def hook(module: torch.nn.Module, args: object, output: torch.Tensor) -> torch.Tensor:
        return _one_mask_for_all_rows(output, rate) if module.training else output

    layers = model.model.layers
    places = [model.model.embed_tokens, *(layer.self_attn.o_proj for layer in layers), *(layer.mlp for layer in layers)]
    return [place.register_forward_hook(hook) for place in places]
