"""A GGUF file of a large shape that writes the bundled target's text, by our expansion (offload/expansion.py): not kept in git.

    python -m tests.benchmarks.gguf_shape llama-3.1-8b /tmp/8b.gguf          # 5.0 GB, some minutes
    python -m tests.benchmarks.gguf /tmp/8b.gguf --draft bundled -r 3        # plain llama.cpp beside trees, all in memory

Matrices are Q4_0, embedding and head Q8_0. Layers that add nothing hold the same bytes each; ids beyond the small vocabulary
have the logit of <unk>.
"""

import argparse
import json
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt
import torch

from cli.find import find
from cli.name import BUNDLED
from offload.expand import layer
from offload.expansion import Expansion
from offload.folder import EMBEDDING, Folder
from offload.parts import Source
from offload.published import NORM
from offload.shape import SHAPES
from tests.gguf.writer import OURS, OUTSIDE, ROTATED

Kind = gguf.GGMLQuantizationType
Bytes = npt.NDArray[Any]
INSIDE_KIND, OUTSIDE_KIND = Kind.Q4_0, Kind.Q8_0
CONTROL, NORMAL, UNUSED = 3, 1, 5  # llama.cpp's types of tokens


class Shaped:
    """The tensors of a file, one at a time."""

    def __init__(self, of: Expansion) -> None:
        self.of = of

    def named(self) -> Iterator[tuple[str, tuple[int, ...], int | None]]:
        """(llama.cpp's name, shape, layer)"""
        yield from ((theirs, self._outside(theirs).shape, None) for theirs in OUTSIDE)
        for index in range(self.of.large.layers):
            for name, source in layer(self.of, index).items():
                stem, _, last = name.rpartition(".")
                yield f"blk.{index}.{OURS[stem]}.{last}", source.shape, index

    def bytes(self, name: str, index: int | None) -> Bytes:
        if index is None:
            return _quantised(self._outside(name), OUTSIDE_KIND, 0)
        inner = name.split(".", 2)[2]
        return self._inner(inner, index) if index in self.of.places else self._inert(inner)

    @cache  # noqa: B019  one object, as long as the program
    def _inert(self, inner: str) -> Bytes:
        return self._inner(inner, next(index for index in range(self.of.large.layers) if index not in self.of.places))

    def _inner(self, inner: str, index: int) -> Bytes:
        stem, _, last = inner.rpartition(".")
        published = next(name for name, ours in OURS.items() if ours == stem)
        return _quantised(layer(self.of, index)[f"{published}.{last}"], INSIDE_KIND,
                          self.of.large.head_dim if stem in ROTATED else 0)

    def _outside(self, name: str) -> Source:
        if OUTSIDE[name] == EMBEDDING:
            return self.of.embedding()
        if OUTSIDE[name] == NORM:
            return self.of.norm(NORM, self.of.weights[NORM])
        head = self.of.head()
        return replace(head, row_of=head.row_of.clamp(min=0))


def _quantised(source: Source, kind: Any, head: int) -> Bytes:
    """head: rows of one, whose halves are woven into pairs."""
    if len(source.shape) == 1:
        return np.asarray(source.rows(0, source.shape[0]).float())
    pieces = []
    for start, stop in source.steps(head or 1):
        rows = source.rows(start, stop).float()
        if head:
            rows = rows.view(-1, 2, head // 2, rows.shape[1]).transpose(1, 2).reshape(rows.shape)
        pieces.append(gguf.quants.quantize(rows.numpy(), kind))
    return np.concatenate(pieces)


def make(name: str, out: Path) -> None:
    folder = Folder(find(BUNDLED, "target"))
    shaped = Shaped(Expansion(folder, SHAPES[name], name))
    file = gguf.GGUFWriter(out, "llama")
    _describe(file, shaped.of.described())
    _tokens(file, folder.path, shaped.of.large.vocabulary)
    every = list(shaped.named())
    for ours, shape, index in every:
        kind = Kind.F32 if len(shape) == 1 else INSIDE_KIND if index is not None else OUTSIDE_KIND
        stored = gguf.quant_shape_to_byte_shape(shape, kind)
        plain = kind == Kind.F32
        file.add_tensor_info(ours, shape if plain else stored, np.dtype("f4" if plain else "u1"), int(np.prod(stored)),
                             None if plain else kind)
    file.write_header_to_file()
    file.write_kv_data_to_file()
    file.write_ti_data_to_file()
    for number, (ours, _, index) in enumerate(every):
        print(f"\r{number}/{len(every)} {ours:40}", end="", flush=True)
        file.write_tensor_data(shaped.bytes(ours, index))
    file.close()
    print(f"\r{out}: {out.stat().st_size / 1e9:.1f} GB{'':40}")


def _describe(file: Any, config: dict[str, Any]) -> None:
    file.add_context_length(config["max_position_embeddings"])
    file.add_embedding_length(config["hidden_size"])
    file.add_block_count(config["num_hidden_layers"])
    file.add_feed_forward_length(config["intermediate_size"])
    file.add_head_count(config["num_attention_heads"])
    file.add_head_count_kv(config["num_key_value_heads"])
    file.add_key_length(config["head_dim"])
    file.add_value_length(config["head_dim"])
    file.add_rope_dimension_count(config["head_dim"])
    file.add_layer_norm_rms_eps(config["rms_norm_eps"])
    file.add_rope_freq_base(config["rope_parameters"]["rope_theta"])


def _tokens(file: Any, folder: Path, count: int) -> None:
    model = json.loads((folder / "tokenizer.json").read_text())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].__getitem__)
    file.add_tokenizer_model("gpt2")
    file.add_tokenizer_pre("gpt-2")
    file.add_token_list([*tokens, *(f"[PAD{number}]" for number in range(len(tokens), count))])
    file.add_token_types([*[CONTROL] * 3, *[NORMAL] * (len(tokens) - 3), *[UNUSED] * (count - len(tokens))])
    file.add_token_merges([" ".join(pair) for pair in model["merges"]])
    file.add_unk_token_id(0)
    file.add_bos_token_id(1)
    file.add_eos_token_id(2)
    file.add_add_bos_token(True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("shape", choices=sorted(name for name in SHAPES if name.startswith("llama")))
    parser.add_argument("out", type=Path)
    given = parser.parse_args()
    with torch.inference_mode():
        make(given.shape, given.out)
