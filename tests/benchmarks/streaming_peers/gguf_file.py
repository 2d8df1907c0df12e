"""A GGUF file of a shape with random weights, in the formats that llama.cpp's own quantiser gives a Q4_0 file.

Those are: matrices and embedding Q4_0, the head Q6_K (its llama_tensor_get_type, no importance matrix), norms F32; its order:
what is outside the layers, then the layers, by name. The vocabulary is llama.cpp's "no_vocab": ids alone, no text.
"""

import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Kind

from tests.benchmarks.streaming_peers.noise import Bytes, Noise
from tests.benchmarks.streaming_peers.room import ask, making
from tests.benchmarks.streaming_peers.shape import Shape

NAMES = {"self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
         "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down"}
NORMS = "attn_norm", "ffn_norm"


@dataclass(frozen=True)
class Tensor:
    """shape: [rows, columns] or [width], as torch would have it."""

    name: str
    shape: tuple[int, ...]
    kind: Kind = Kind.Q4_0

    @property
    def nbytes(self) -> int:
        """Raises ValueError where rows are no whole blocks."""
        return int(np.prod(gguf.quant_shape_to_byte_shape(self.shape, self.kind)))

    def pieces(self, noise: Noise) -> Iterator[Bytes]:
        if self.kind is Kind.F32:
            return iter([np.ones(self.shape, "<f4").view(np.uint8)])
        draw: Callable[[int, int], Iterator[Bytes]] = {Kind.Q4_0: noise.q4_0, Kind.Q6_K: noise.q6_k}[self.kind]
        return draw(*self.shape)


def tensors(shape: Shape) -> Iterator[Tensor]:
    yield Tensor("output.weight", (shape.vocab, shape.width), Kind.Q6_K)
    yield Tensor("output_norm.weight", (shape.width,), Kind.F32)
    yield Tensor("token_embd.weight", (shape.vocab, shape.width))
    for index in range(shape.layers):
        matrices = [Tensor(f"blk.{index}.{NAMES[name]}.weight", size) for name, size in shape.layer()]
        norms = [Tensor(f"blk.{index}.{name}.weight", (shape.width,), Kind.F32) for name in NORMS]
        yield from sorted((*matrices, *norms), key=lambda tensor: tensor.name)


def make(shape: Shape, out: Path, leave: bool) -> None:
    """Writes `out`, from names and sizes first, CHUNK by CHUNK. Exits with two lines where it cannot."""
    every = list(tensors(shape))
    try:
        nbytes = sum(tensor.nbytes for tensor in every)
    except ValueError as error:
        sys.exit(f"{shape.name} has rows of no whole blocks: {error}.\na hidden_size that is a multiple of 256")
    ask(out, nbytes, leave)
    with making(out) as part:
        writer = described(shape, every)
        writer.write_header_to_file(part)
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        assert writer.fout is not None
        [file] = writer.fout
        fill(writer, file, every)
        os.fsync(file.fileno())  # or dropping caches would leave the file in memory
        writer.close()


def described(shape: Shape, every: list[Tensor]) -> gguf.GGUFWriter:
    writer = gguf.GGUFWriter(None, "llama")
    writer.add_name(shape.name)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q4_0)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_tokenizer_model("no_vocab")
    for add, value in ((writer.add_vocab_size, shape.vocab), (writer.add_context_length, shape.context),
                       (writer.add_embedding_length, shape.width), (writer.add_block_count, shape.layers),
                       (writer.add_feed_forward_length, shape.ffn), (writer.add_head_count, shape.heads),
                       (writer.add_head_count_kv, shape.kv_heads), (writer.add_key_length, shape.head_dim),
                       (writer.add_value_length, shape.head_dim), (writer.add_rope_dimension_count, shape.head_dim)):
        add(value)
    writer.add_rope_freq_base(shape.theta)
    writer.add_layer_norm_rms_eps(shape.eps)
    for tensor in every:
        writer.add_tensor_info(tensor.name, tensor.shape, np.dtype(np.float32), tensor.nbytes, tensor.kind)
    return writer


def fill(writer: gguf.GGUFWriter, file: BinaryIO, every: list[Tensor]) -> None:
    """The data itself, past the writer, which would have each tensor whole."""
    noise = Noise()
    writer.write_padding(file, file.tell())
    for tensor in every:
        for piece in tensor.pieces(noise):
            file.write(piece)
        writer.write_padding(file, tensor.nbytes)
