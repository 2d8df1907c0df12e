"""How far logits differ where keys and values are quantised and their rows came in passes of other widths: as rounding.py.

    python -m tests.benchmarks.quantised_rounding [--dtype fp32] [--texts 20]

A row that rounds to another code is a step apart, so that differences are rare and large: pieces of a novel are read token by
token, then in passes of several widths. Prints the largest difference of any logit by format.
"""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import argparse
import gzip
import json
from pathlib import Path

import torch

from cli.build import ModelOptions, open_session
from cli.interrupt import Interrupt
from cli.session import Session
from specexec.tree import ROOT, DraftTree

NOVEL = Path(__file__).parents[3] / "shared" / "data" / "text" / "long_novel.txt.gz"
READ, TOKENS, WIDTHS = 100, 340, (5, 24, 240)  # the first are read at once, the others in passes


def logits(session: Session, ids: list[int], width: int) -> torch.Tensor:
    """fp32[len(ids) - READ, V]"""
    found: list[torch.Tensor] = []
    session.target.cache.truncate(0)
    for at in range(READ, len(ids), width):
        some = ids[at : at + width]
        session.target.sync(ids[:at])
        tree = DraftTree(tuple(some), tuple(range(ROOT, len(some) - 1)), (0.0,) * len(some), ("x",) * len(some))
        session.target.forward(tree, lambda first, rows: found.append(rows.clone()))
    return torch.cat(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dtype", default="fp32")
    parser.add_argument("--texts", type=int, default=20)
    chosen = parser.parse_args()
    novel, largest = gzip.decompress(NOVEL.read_bytes()).decode(), {}
    for kv in ("bf16", "int8", "int4"):
        session = open_session(ModelOptions(drafts=("none",), dtype=chosen.dtype, kv=kv), Interrupt())
        apart = []
        for start in range(10_000, len(novel), len(novel) // chosen.texts):
            ids = session.codec.encode_first(novel[start : start + 8 * TOKENS])[:TOKENS]
            alone = logits(session, ids, 1)
            apart += [float((logits(session, ids, width) - alone).abs().max()) for width in WIDTHS]
        largest["whole" if kv == "bf16" else kv] = max(apart)
    print(json.dumps({"dtype": chosen.dtype, "largest_difference_of_logits": largest}))


if __name__ == "__main__":
    main()
