"""The pairs at hand, and the openings below which every rule writes."""

import argparse
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer

from cli.ledger import looked_at
from specexec.bundled.corpus import read_stories
from specexec.engines.tree_engine import LARGEST_TREE
from specexec.vocabulary import Vocabulary
from tests.benchmarks.lab.remembered import Remembered
from tests.benchmarks.pair import BUNDLED, ROOT, Pair, ends, engine

DATA = Path(os.environ.get("SPECEXEC_TEST_DATA", ROOT.parent / "shared" / "data"))
STORIES = DATA / "text" / "tinystories_5k.jsonl.gz"
TARGETS = {"bundled": BUNDLED / "target", "stories260k": DATA / "models" / "stories260k"}
WORDS = 20  # of an opening


def lacking(name: str) -> str | None:
    """Why the pair cannot be compared here."""
    missing = [path for path in (TARGETS[name], STORIES) if not path.exists()]
    return f"{name}: skipped, {missing[0]} is not there; set SPECEXEC_TEST_DATA" if missing else None


@dataclass(frozen=True)
class Prepared:
    """pair(): with a draft that has learnt nothing yet. openings: measured ones; lessons: from which rules only learn."""

    pair: Callable[[], Pair]
    openings: list[list[int]]
    lessons: list[list[int]]


def prepare(name: str, chosen: argparse.Namespace) -> Prepared:
    """Openings are the first words of development stories: the first ones are measured, the last ones are lessons."""
    codec = Tokenizer.from_file(str(TARGETS[name] / "tokenizer.json"))
    stories = [codec.encode(" ".join(text.split()[:WORDS])).ids for text in read_stories(STORIES)["dev"]]
    target, end = engine(TARGETS[name], max(codec.get_vocab().values()) + 1), ends(TARGETS[name])
    draft = engine(BUNDLED / "draft", target.limits.vocabulary, tree=looked_at(LARGEST_TREE)) if name == "bundled" else None

    def pair() -> Pair:
        return Pair(target, draft or Remembered(target.limits), Vocabulary(None), end)

    return Prepared(pair, stories[: chosen.stories], stories[len(stories) - chosen.lessons :])
