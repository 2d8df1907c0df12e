"""The stories the bundled pair learns from: text, tokenizer, rows of token ids."""

import gzip
import json
import random
from collections.abc import Generator, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

UNK, BOS, EOS = 0, 1, 2
SPECIALS = ["<unk>", "<s>", "</s>"]


@dataclass(frozen=True)
class Corpus:
    """Stories as token ids, without <s> and </s>."""

    train: list[list[int]]
    dev: list[list[int]]


def read_stories(path: Path) -> dict[str, list[str]]:
    """Reads gzipped JSON lines of {"split", "text"} into {"train": [...], "dev": [...]}."""
    stories: dict[str, list[str]] = {"train": [], "dev": []}
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for row in map(json.loads, lines):
            stories[row["split"]].append(row["text"])
    return stories


def train_tokenizer(texts: Iterable[str], vocabulary: int) -> Tokenizer:
    """A byte-level BPE: every string has ids and comes back from them unchanged."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=SPECIALS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", BOS)]
    )
    return tokenizer


def encode(tokenizer: Tokenizer, stories: dict[str, list[str]]) -> Corpus:
    def ids(split: str) -> list[list[int]]:
        return [e.ids for e in tokenizer.encode_batch(stories[split], add_special_tokens=False)]

    return Corpus(ids("train"), ids("dev"))


def rows(stories: list[list[int]], tokens: int, rng: random.Random) -> Generator[torch.Tensor, int]:
    """Batches of about `tokens` ids, int64[rows, length + 1]; send it the length of the next rows.

    A row starts at a story and is filled with further ones; a story cut at a row's end loses its tail this epoch.
    """
    length = yield torch.empty(0, dtype=torch.int64)
    batch: list[list[int]] = []
    row: list[int] = []
    while True:
        for i in rng.sample(range(len(stories)), len(stories)):
            row += [BOS, *stories[i], EOS]
            if len(row) > length:
                batch.append(row[: length + 1])
                row = []
            if len(batch) * length >= tokens:
                length = yield torch.tensor(batch)
                batch = []
