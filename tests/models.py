"""Tiny random models as published folders, engines over them, and what plain transformers says of them."""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from hypothesis import strategies as st
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    MistralConfig,
    PretrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
)

from offload.folder import Folder, ResidentWeights
from offload.form import Plain
from specexec.engines.families import admit
from specexec.engines.torch_engine import TorchEngine
from specexec.kv.cache import KVCache
from specexec.kv.dense import DenseCache
from specexec.roles import WeightSource
from specexec.tree import ROOT, DraftTree

VOCABULARY, CONTEXT, WINDOW = 80, 160, 16
LLAMA3 = {"rope_type": "llama3", "rope_theta": 10000.0, "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 32}
SHAPE: dict[str, Any] = {
    "vocab_size": VOCABULARY, "hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": CONTEXT, "bos_token_id": None, "eos_token_id": 1, "pad_token_id": None,
    "initializer_range": 0.25,
}

CONFIGS: dict[str, Callable[..., PretrainedConfig]] = {
    "llama": lambda **kw: LlamaConfig(**SHAPE | kw),
    "llama3-rope": lambda **kw: LlamaConfig(**SHAPE | {"rope_parameters": LLAMA3} | kw),
    "qwen2": lambda **kw: Qwen2Config(**SHAPE | kw),
    "qwen2-mixed": lambda **kw: Qwen2Config(
        **SHAPE | {"use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 1} | kw),
    "qwen3": lambda **kw: Qwen3Config(**SHAPE | {"head_dim": 16} | kw),
    "mistral": lambda **kw: MistralConfig(**SHAPE | {"sliding_window": WINDOW} | kw),
}
FAMILIES = tuple(CONFIGS)
ROPES = ("llama3", "linear", "yarn")
BIASED = ("llama-biased", "qwen3-biased")
CONFIGS |= {rope: lambda rope=rope, **kw: LlamaConfig(**SHAPE | {"rope_parameters": LLAMA3 | {"rope_type": rope}} | kw)
            for rope in ROPES}
CONFIGS |= {"llama-biased": lambda **kw: LlamaConfig(**SHAPE | {"attention_bias": True, "mlp_bias": True} | kw),
            "qwen3-biased": lambda **kw: Qwen3Config(**SHAPE | {"head_dim": 16, "attention_bias": True} | kw)}

_scratch = tempfile.TemporaryDirectory(prefix="tiny-models-")


def save(family: str, folder: Path, max_shard_size: str = "5GB", **changes: Any) -> Path:
    """A seeded random model in `folder`; its biases and norms are random too, so that ignoring one shows."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(CONFIGS[family](**changes))
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "norm" in name or name.endswith("bias"):
                    parameter.add_(0.3 * torch.randn_like(parameter))
    model.save_pretrained(folder, max_shard_size=max_shard_size)
    return folder


@cache
def saved(family: str, tied: bool = False) -> Path:
    """The folder of a family's model, made once; not to be changed."""
    return save(family, Path(_scratch.name) / f"{family}-{tied}", tie_word_embeddings=tied)


@cache
def reference(folder: Path) -> PreTrainedModel:
    """The same model in plain transformers."""
    return AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager", dtype=torch.float32).eval()


def weights(folder: Path, dtype: torch.dtype = torch.float32) -> ResidentWeights:
    found = Folder(folder)
    config = admit(found.config)
    return ResidentWeights(found, config.num_hidden_layers, config.tie_word_embeddings, Plain(torch.device("cpu"), dtype))


def engine(
    folder: Path, *, cache: KVCache | None = None, source: WeightSource | None = None, dtype: torch.dtype = torch.float32,
    vocabulary: int = VOCABULARY, **others: Any,
) -> TorchEngine:
    """The engine of a folder's model, as a person would get it."""
    config = admit(Folder(folder).config)
    source = source or weights(folder, dtype)
    cache = cache or DenseCache(config.num_hidden_layers)
    return TorchEngine(config, source, cache, vocabulary, torch.device("cpu"), dtype, **others)


class Changed:
    """Implements WeightSource: another's tensors, and a call before each layer is given out."""

    def __init__(self, source: WeightSource, before: Callable[[int], object]) -> None:
        self.source, self.before = source, before

    def resident(self) -> Mapping[str, torch.Tensor]:
        return self.source.resident()

    def embed(self, tokens: Sequence[int]) -> torch.Tensor:
        return self.source.embed(tokens)

    def layer(self, index: int) -> Any:
        self.before(index)
        return self.source.layer(index)


def read(target: TorchEngine, tree: DraftTree, first: int = 0) -> torch.Tensor:
    """fp32[n - first, V]: what a reader is given, whose rows must come in order."""
    rows: list[torch.Tensor] = []

    def reader(start: int, logits: torch.Tensor) -> None:
        assert start == first + sum(map(len, rows))
        rows.append(logits.clone())

    target.forward(tree, reader, first)
    return torch.cat(rows)


@torch.inference_mode()
def expected(folder: Path, tokens: Sequence[int], tree: DraftTree) -> torch.Tensor:
    """fp32[n, V]: plain transformers' logits at each node, on `tokens` and the node's own path.

    Every leaf's path is one row of a batch; what pads a row on the right is after every node of it.
    """
    leaves = sorted(set(range(len(tree))) - set(tree.parents))
    paths = [tree.path(leaf) for leaf in leaves]
    texts = [[*tokens, *(tree.tokens[node] for node in path)] for path in paths]
    longest = max(map(len, texts))
    logits = reference(folder)(torch.tensor([text + [0] * (longest - len(text)) for text in texts]), use_cache=False).logits
    found = torch.full((len(tree), logits.shape[-1]), torch.nan)
    for row, path in enumerate(paths):
        for depth, node in enumerate(path):
            found[node] = logits[row, len(tokens) + depth]
    return found


def tree_of(tokens: Sequence[int], parents: Sequence[int]) -> DraftTree:
    return DraftTree(tuple(tokens), tuple(parents), (0.0,) * len(tokens), ("test",) * len(tokens))


def chain(*tokens: int) -> DraftTree:
    return tree_of(tokens, range(ROOT, len(tokens) - 1))


def grown(tree: DraftTree, nodes: Sequence[tuple[int, int]]) -> DraftTree:
    """`tree` with a node for each (parent, token), either taken modulo what there is, where no sibling has the token."""
    tokens, parents = list(tree.tokens), list(tree.parents)
    taken = {*zip(parents, tokens, strict=True)}
    for parent, token in nodes:
        new = (parent % len(tokens), token % VOCABULARY)
        if new not in taken:
            taken.add(new)
            parents.append(new[0])
            tokens.append(new[1])
    return tree_of(tokens, parents)


ids = st.integers(0, VOCABULARY - 1)
nodes = st.lists(st.tuples(st.integers(0, 30), ids), max_size=10)
trees = st.builds(lambda root, below: grown(chain(root), below), ids, nodes)
