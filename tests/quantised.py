"""Quantised tiny models on the CPU kernels, and the same weights dequantised."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from offload.folder import EMBEDDING, HEAD, Folder, Form, ResidentWeights
from offload.form import Quantised
from specexec.engines.families import admit
from specexec.engines.kernel_engine import KernelEngine
from specexec.engines.torch_engine import TorchEngine
from specexec.formats import dequantise
from specexec.kernels.linear import levels
from specexec.kv.cache import Rows
from specexec.kv.dense import DenseCache
from specexec.tree import DraftTree
from tests.kept import quantise
from tests.models import VOCABULARY, chain, read

CPU = torch.device("cpu")


class AnyKind(Quantised):
    """And of the kinds that GGUF files keep."""

    def _matrix(self, name: str, tensor: torch.Tensor, kind: str) -> dict[str, torch.Tensor]:
        made = quantise(tensor, kind, self.layout)
        return {name: made.codes, name.removesuffix("weight") + "scales": made.scales}


def weights(folder: Path, kind: str) -> ResidentWeights:
    found = Folder(folder)
    config = admit(found.config)
    tied = config.tie_word_embeddings
    return ResidentWeights(found, config.num_hidden_layers, tied, AnyKind(kind, "tile16", tied, CPU, torch.float32))


def engine(folder: Path, kind: str, bits: int, vocabulary: int = VOCABULARY, **others: Any) -> KernelEngine:
    """As a person would get it."""
    return KernelEngine(admit(Folder(folder).config), weights(folder, kind), vocabulary, bits, **others)


def dequantised(kind: str, tied: bool, as_met: bool) -> Form:
    """Every tensor with the error of its quantisation, in fp32, and a head of its own where it is the embedding.

    as_met: nf4's levels as 16-bit activations meet them.
    """

    def form(name: str, tensor: torch.Tensor) -> Mapping[str, torch.Tensor]:
        def lossy(of: str) -> torch.Tensor:
            packed = quantise(tensor, of, "rowmajor")
            return levels(packed, 16).float() if as_met else dequantise(packed)

        if name == EMBEDDING:
            return {name: tensor.float()} | ({HEAD: lossy("int8")} if tied else {})
        if name == HEAD:
            return {name: lossy("int8")}
        return {name: lossy(kind) if name.endswith("_proj.weight") else tensor.float()}

    return form


class Rounded(DenseCache):
    """Keys and values of bf16, in fp32."""

    def attend(self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, rows: Rows) -> torch.Tensor:
        return super().attend(layer, q, k.bfloat16().to(k.dtype), v.bfloat16().to(v.dtype), rows)


def twin(folder: Path, kind: str, vocabulary: int = VOCABULARY, as_met: bool = False) -> TorchEngine:
    """transformers in fp32 with the dequantised weights of `engine`; as_met: keys, values and levels rounded as there."""
    found = Folder(folder)
    config = admit(found.config | {"tie_word_embeddings": False})
    layers, tied = config.num_hidden_layers, admit(found.config).tie_word_embeddings
    source = ResidentWeights(found, layers, tied, dequantised(kind, tied, as_met))
    cache = Rounded(layers) if as_met else DenseCache(layers)
    return TorchEngine(config, source, cache, vocabulary, CPU, torch.float32)


class Plain:
    """Logits of plain decoding: every token evaluated alone, below a cache of those before it. What was seen is kept."""

    def __init__(self, engine: KernelEngine) -> None:
        self.engine = engine
        self._seen: dict[tuple[int, ...], torch.Tensor] = {}

    def after(self, tokens: Sequence[int]) -> torch.Tensor:
        """fp32[V]"""
        wanted = tuple(tokens)
        if wanted not in self._seen:
            held = list(self.engine.cache.tokens) + list(self.engine.cache.branches.tokens)
            same = next((i for i, (a, b) in enumerate(zip(held, wanted, strict=False)) if a != b), min(len(held), len(wanted)))
            for length in range(min(same, len(wanted) - 1), len(wanted)):
                self.engine.sync(wanted[:length])
                self._seen[wanted[: length + 1]] = read(self.engine, chain(wanted[length]))[0]
        return self._seen[wanted]

    def at(self, tokens: Sequence[int], tree: DraftTree, first: int = 0) -> torch.Tensor:
        """fp32[n - first, V] of the tree's nodes, each on its own path."""
        paths = [[*tokens, *(tree.tokens[above] for above in tree.path(node))] for node in range(first, len(tree))]
        for path in sorted(paths):  # depth first: little is evaluated again
            self.after(path)
        return torch.stack([self.after(path) for path in paths])
