"""What keys and values of 8 and 4 bits cost in perplexity, and how often a draft that reads the upper nibbles is right:

    python -m tests.benchmarks.quantised_kv [--only perplexity acceptance] [--stories 100] [--tokens 2000]

perplexity: dev stories one after another, in windows of the model's context, as `bench --quality` reads texts; layers are
int8, activations of 16 bits. acceptance: the bundled model writes on from the long novel at temperature 0 and 1, with its own
int8 KV cache; its picks beside those of its upper nibbles, alone and among four. One line of JSON comes last.
"""

import argparse
import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerFast

from cli.build import ModelOptions, open_session
from cli.interrupt import Interrupt
from cli.quality import judge, windows
from cli.session import AnswerOptions
from offload.folder import Folder
from specexec.drafters.grow import Grow
from specexec.drafters.growing import Lesson
from specexec.drafters.same import Same
from specexec.engines.kernel_engine import KernelEngine
from specexec.kv.quantised import UPPER
from specexec.sampling import Sampling
from specexec.tree import ROOT
from tests import quantised
from tests.benchmarks.long_context import NOVEL
from tests.benchmarks.perplexity import MODELS, dev_stories
from tests.benchmarks.view_knowledge import texts

PARTS = ("perplexity", "acceptance")
SIBLINGS = 4


@dataclass(frozen=True)
class Acceptance:
    """Of so many nodes on the target's own path: the share whose pick the draft picked, and had among its best four."""

    temperature: float
    nodes: int
    first: float
    among: float


def perplexities(chosen: argparse.Namespace) -> list[dict[str, Any]]:
    """Stories one behind the other: most of each window lies in groups."""
    cells = []
    for path in (MODELS[0], MODELS[2]):
        config, tokenizer = Folder(path).config, PreTrainedTokenizerFast(tokenizer_file=str(path / "tokenizer.json"))
        ids = [token for story in dev_stories()[: chosen.stories] for token in tokenizer.encode(story)]
        engine = quantised.engine(path, "int8", 16, vocabulary=config["vocab_size"])
        found = judge(engine, windows(ids, [], config["max_position_embeddings"] - 1))
        cells += [{"model": path.name, **asdict(cell)} for cell in found]
        print(*cells[-len(found) :], sep="\n", flush=True)
    return cells


class Counted(Same):
    """Counts, at each node of the path that came true, whether the target's pick was this draft's first, and among the best."""

    seen: list[tuple[bool, bool]]

    def learn(self, lessons: list[Lesson]) -> None:
        picked: dict[int, int] = {}  # {row on the path: the target's pick}
        for at in sorted((at for at in lessons if at.node in self._row), key=lambda at: at.node):
            row = self._evaluated.rows[self._row[at.node]]
            if row.parent == ROOT or picked.get(row.parent) == at.before[-1]:
                picked[self._row[at.node]] = at.pick
                found = row.candidates
                order = (-(found.log_q + found.noise)).argsort()[:SIBLINGS]
                best = found.ids[order].tolist()
                self.seen.append((at.pick == best[0], at.pick in best))
        super().learn(lessons)


def acceptances(chosen: argparse.Namespace) -> list[dict[str, Any]]:
    session = open_session(ModelOptions(drafts=("none",), quant="int8", kv="int8"), Interrupt())
    session = replace(session, eos=frozenset())
    assert isinstance(session.target, KernelEngine)
    cells = []
    for temperature in (0.0, 1.0):
        seen: list[tuple[bool, bool]] = []
        for number, prompt in enumerate(texts(chosen, session.codec.encode_first)):
            view = session.target.cache.view(UPPER)
            drafter = Counted(session.target, view)  # type: ignore[arg-type]
            drafter.seen = seen
            used = replace(session, drafter=Grow([drafter], session.context))
            options = AnswerOptions(Sampling(temperature), number, 16, chosen.answer)
            list(used.stream(used.begin(prompt, options), prompt, options, 0))
            if len(seen) >= chosen.tokens:
                break
        first, among = (sum(column) / len(seen) for column in zip(*seen, strict=True))
        cells.append(asdict(Acceptance(temperature, len(seen), first, among)))
        print(cells[-1], flush=True)
    return cells


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--stories", type=int, default=100)
    parser.add_argument("--tokens", type=int, default=2000)
    parser.add_argument("--samples", type=int, default=40)
    parser.add_argument("--length", type=int, default=640, help="tokens of a prompt")
    parser.add_argument("--answer", type=int, default=200, help="tokens of an answer")
    parser.add_argument("--text", type=Path, default=NOVEL)
    chosen = parser.parse_args()
    found = {name: part(chosen)  # type: ignore[operator]
             for name, part in zip(PARTS, (perplexities, acceptances), strict=True) if name in chosen.only}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
