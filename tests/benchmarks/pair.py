"""A target and a draft from two Hugging Face folders, ready to be compared under any rule."""

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer

from offload.folder import Folder, ResidentWeights
from offload.form import Plain
from specexec.engines.families import admit
from specexec.engines.torch_engine import TorchEngine
from specexec.engines.tree_engine import LARGEST_TREE
from specexec.kv.dense import DenseCache
from specexec.roles import Engine, WeightSource
from specexec.vocabulary import Vocabulary, match

ROOT = Path(__file__).parents[2]
BUNDLED = ROOT / "specexec" / "bundled"
PROMPTS = ROOT.parent / "shared" / "data" / "prompts" / "stories_dev.jsonl"
CPU = torch.device("cpu")


class Perturbed:
    """Implements WeightSource: another's tensors, each with Gaussian noise of `sigma` times its own deviation."""

    def __init__(self, source: WeightSource, layers: int, sigma: float) -> None:
        self._random = torch.Generator().manual_seed(0)
        self._resident = self._noisy(source.resident(), sigma)
        self._layers: list[Mapping[str, torch.Tensor]] = []
        for index in range(layers):
            with source.layer(index) as tensors:
                self._layers.append(self._noisy(tensors, sigma))

    def resident(self) -> Mapping[str, torch.Tensor]:
        return self._resident

    def embed(self, tokens: Sequence[int]) -> torch.Tensor:
        return self._resident["model.embed_tokens.weight"][torch.tensor(tokens)]

    @contextmanager
    def layer(self, index: int) -> Iterator[Mapping[str, torch.Tensor]]:
        yield self._layers[index]

    def _noisy(self, tensors: Mapping[str, torch.Tensor], sigma: float) -> Mapping[str, torch.Tensor]:
        return {name: t + sigma * t.std() * torch.randn(t.shape, generator=self._random) for name, t in sorted(tensors.items())}


@dataclass(frozen=True)
class Pair:
    target: Engine
    draft: Engine
    vocabulary: Vocabulary
    eos: frozenset[int]


def engine(folder: Path, vocabulary: int, sigma: float = 0.0, tree: int = LARGEST_TREE) -> TorchEngine:
    """The folder's model in fp32 on the CPU, its weights perturbed by `sigma`. tree: rows of the largest."""
    config = admit(Folder(folder).config)
    layers = config.num_hidden_layers
    source: WeightSource = ResidentWeights(Folder(folder), layers, config.tie_word_embeddings, Plain(CPU, torch.float32))
    source = Perturbed(source, layers, sigma) if sigma else source
    return TorchEngine(config, source, DenseCache(layers), vocabulary, CPU, torch.float32, largest_tree=tree)


def ends(folder: Path) -> frozenset[int]:
    eos = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("eos_token_id")
    return frozenset() if eos is None else frozenset(eos if isinstance(eos, list) else [eos])


def load(chosen: argparse.Namespace) -> tuple[Pair, list[list[int]]]:
    """(the pair, token ids of the openings) of options that `add_options` made."""
    torch.set_num_threads(chosen.threads)
    codecs = [Tokenizer.from_file(str(folder / "tokenizer.json")) for folder in (chosen.target, chosen.draft)]
    sizes = [max(codec.get_vocab().values()) + 1 for codec in codecs]
    vocabulary = match(*(codec.get_vocab() for codec in codecs))
    target, draft = engine(chosen.target, sizes[0]), engine(chosen.draft, sizes[1], chosen.perturb)
    return Pair(target, draft, vocabulary, ends(chosen.target)), openings(chosen.prompts, codecs[0], chosen.stories)


def openings(path: Path, codec: Tokenizer, count: int) -> list[list[int]]:
    """Token ids of the first turns of the first `count` lines of a jsonl file."""
    lines: Sequence[str] = path.read_text(encoding="utf-8").splitlines()[:count]
    return [codec.encode(json.loads(line)["turns"][0]).ids for line in lines]


def add_options(parser: argparse.ArgumentParser, stories: int, tokens: int) -> None:
    """The options of every benchmark of a pair. tokens: written below each opening."""
    parser.add_argument("--target", type=Path, default=BUNDLED / "target", help="folder of the target model")
    parser.add_argument("--draft", type=Path, default=BUNDLED / "draft", help="folder of the draft model")
    parser.add_argument("--perturb", type=float, default=0.0, help="noise on the draft's weights, in their own deviations")
    parser.add_argument("--prompts", type=Path, default=PROMPTS, help='jsonl of {"turns": [text, ...]}')
    parser.add_argument("--stories", type=int, default=stories, help="openings continued")
    parser.add_argument("--tokens", type=int, default=tokens, help="tokens written below each opening")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--seed", type=int, default=0)
