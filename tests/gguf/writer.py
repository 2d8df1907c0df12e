"""GGUF files of tiny models, as llama.cpp's own script writes them."""

from pathlib import Path
from typing import Any

import torch

from offload.folder import Folder
from offload.gguf_convert import INSIDE, OUTSIDE, ROTATED
from specexec.engines.families import admit

OURS = {published: name for name, published in INSIDE.items()}
SPECIAL = ["<unk>", "<s>", "</s>"]


def write(folder: Path, path: Path, kind: str = "F32", outside: str = "") -> Path:
    """Vectors in F32, matrices in `kind`, or `outside` the layers in another; F16 where rows are no whole blocks."""
    import gguf

    said = Folder(folder).config
    config = admit(said)
    arch = "llama" if config.model_type == "mistral" else config.model_type
    file = gguf.GGUFWriter(path, arch)
    file.add_context_length(config.max_position_embeddings)
    file.add_embedding_length(config.hidden_size)
    file.add_block_count(config.num_hidden_layers)
    file.add_feed_forward_length(config.intermediate_size)
    file.add_head_count(config.num_attention_heads)
    file.add_head_count_kv(config.num_key_value_heads)
    file.add_key_length(config.head_dim)
    file.add_layer_norm_rms_eps(config.rms_norm_eps)
    file.add_rope_freq_base(said["rope_parameters"]["rope_theta"])
    _tokens(file, config.vocab_size)
    for name, tensor in Folder(folder).tensors():
        if not (config.tie_word_embeddings and name == "lm_head.weight"):
            own, values = _kept(name, tensor, config, arch)
            number = _number(outside if outside and name in OUTSIDE.values() else kind, values.shape)
            file.add_tensor(own, gguf.quants.quantize(values, number), raw_dtype=number)
    file.write_header_to_file()
    file.write_kv_data_to_file()
    file.write_tensors_to_file()
    file.close()
    return path


def _number(kind: str, shape: tuple[int, ...]) -> Any:
    import gguf

    number = gguf.GGMLQuantizationType[kind if len(shape) > 1 else "F32"]
    return number if shape[-1] % gguf.GGML_QUANT_SIZES[number][0] == 0 else gguf.GGMLQuantizationType.F16


def _tokens(file: Any, count: int) -> None:
    tokens = [*SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256)), *(f"word{more}" for more in range(count))]
    file.add_tokenizer_model("llama")
    file.add_token_list(tokens[:count])
    file.add_token_scores([0.0] * count)
    file.add_token_types([2, 3, 3, *[6] * 256, *[1] * count][:count])
    file.add_bos_token_id(1)
    file.add_eos_token_id(2)


def _kept(name: str, tensor: torch.Tensor, config: Any, arch: str) -> tuple[str, Any]:
    if name in OUTSIDE.values():
        return next(ours for ours, published in OUTSIDE.items() if published == name), tensor.float().numpy()
    _, _, index, inner = name.split(".", 3)
    stem, _, last = inner.rpartition(".")
    if arch == "llama" and OURS[stem] in ROTATED:
        heads = getattr(config, ROTATED[OURS[stem]])
        tensor = tensor.view(heads, 2, -1, *tensor.shape[1:]).transpose(1, 2).reshape(tensor.shape)
    return f"blk.{index}.{OURS[stem]}.{last}", tensor.float().contiguous().numpy()
