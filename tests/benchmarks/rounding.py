"""How far logits of the same path differ between passes of different widths: what first_close_call is judged by.

    python -m tests.benchmarks.rounding [--model FOLDER]

Each opening is evaluated token by token, then with its last tokens as a branch of a wide tree. Prints the largest difference.
"""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import argparse
import json
import random
from pathlib import Path

import torch

from cli.build import ModelOptions, open_session
from cli.interrupt import Interrupt
from cli.session import Session
from specexec.tree import ROOT, DraftTree

OPENINGS = Path(__file__).parents[3] / "shared" / "data" / "prompts" / "stories_dev.jsonl"
BRANCH, WIDTHS = 16, (16, 64, 256, 1024)


def single(session: Session, ids: list[int]) -> torch.Tensor:
    """fp32[BRANCH, V]: logits of the last tokens, each by a pass of its own."""
    rows: list[torch.Tensor] = []
    for end in range(len(ids) - BRANCH, len(ids)):
        session.target.sync(ids[:end])
        session.target.forward(DraftTree((ids[end],)), lambda first, logits: rows.append(logits[0].clone()))
    return torch.stack(rows)


def among(session: Session, ids: list[int], width: int, noise: random.Random) -> torch.Tensor:
    """The same logits, the tokens being one branch of a tree of `width` nodes."""
    tokens, parents = list(ids[-BRANCH:]), [ROOT, *range(BRANCH - 1)]
    taken = set(zip(parents, tokens, strict=True))
    while len(tokens) < width:
        edge = noise.randrange(len(tokens)), noise.randrange(session.target.limits.vocabulary)
        if edge not in taken:
            taken.add(edge)
            parents.append(edge[0])
            tokens.append(edge[1])
    found: dict[int, torch.Tensor] = {}
    session.target.cache.truncate(0)
    session.target.sync(ids[:-BRANCH])
    tree = DraftTree(tuple(tokens), tuple(parents), (0.0,) * width, ("x",) * width)
    session.target.forward(tree, lambda first, logits: found.update(enumerate(logits.clone(), first)))
    return torch.stack([found[node] for node in range(BRANCH)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="bundled")
    parser.add_argument("--openings", type=int, default=12)
    chosen = parser.parse_args()
    texts = [json.loads(line)["turns"][0] for line in OPENINGS.read_text().splitlines()[: chosen.openings]]
    largest: dict[str, dict[int, float]] = {}
    for dtype in ("fp32", "bf16", "fp16"):
        session, noise = open_session(ModelOptions(chosen.model, ("none",), dtype=dtype), Interrupt()), random.Random(0)
        largest[dtype] = dict.fromkeys(WIDTHS, 0.0)
        for text in texts:
            ids = session.codec.encode_first(text)
            alone = single(session, ids)
            for width in WIDTHS:
                apart = (among(session, ids, width, noise) - alone).abs().max().item()
                largest[dtype][width] = max(largest[dtype][width], apart)
    print(json.dumps({"model": chosen.model, "largest_difference_of_logits": largest}))


if __name__ == "__main__":
    main()
