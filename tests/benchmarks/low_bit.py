"""What a low-bit copy knows of its model: python -m tests.benchmarks.low_bit

The bundled target in nf4 writes eight stories, drafted for by a copy of all its layers over its own KV cache, or by the bundled
draft. agreed: of the nodes that both evaluated, those where the copy's pick was the target's.
"""

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from cli.build import open_drafter, open_session
from cli.interrupt import Interrupt
from cli.main import main
from cli.models import ModelOptions
from cli.name import BUNDLED
from cli.session import AnswerOptions, Session
from offload.manifest import copy_name
from offload.piece import Piece
from offload.store import Store
from offload.stream import Streamer, Tensors
from specexec.drafters.grow import Grow
from specexec.drafters.growing import Lesson
from specexec.drafters.same import Same, SelfView
from specexec.engines.kernel_engine import KernelEngine
from specexec.kv.whole import BlockView
from specexec.roles import Drafter, WeightSource
from specexec.sampling import Sampling

TOKENS = 96
STORIES = ("Once upon a time", "The little dog", "One day, a girl named Lily", "Tom and his mom", "There was a big red ball",
           "In the forest", "A boy had a kite", "The sun was")


class Copied(Streamer):
    """The store's copy of every layer."""

    def __init__(self, of: Streamer, store: Store) -> None:
        self._of, self._copies = of, [Piece.of(store, copy_name(index)).load() for index in range(len(store.layers))]
        self.embedding, self._resident = of.embedding, of.resident()

    @contextmanager
    def layer(self, index: int) -> Iterator[Tensors]:
        yield self._copies[index]


class Watched(Same):
    """Counts where its picks were the target's."""

    def __init__(self, target: KernelEngine, view: SelfView, weights: WeightSource) -> None:
        super().__init__(target, view, weights=weights)
        self.judged = self.agreed = 0

    def learn(self, lessons: list[Lesson]) -> None:
        known = [at for at in lessons if at.node in self._row]
        self.judged += len(known)
        self.agreed += sum(self._pick(self._row[at.node]) == at.pick for at in known)
        super().learn(lessons)


def watched(session: Session, store: Store) -> Watched:
    target, view = session.target, None
    assert isinstance(target, KernelEngine)
    assert isinstance(target.source, Streamer)
    view = target.cache.view("full")
    assert isinstance(view, BlockView)
    return Watched(target, view, Copied(target.source, store))


def tokens_a_pass(session: Session, drafter: Drafter, temperature: float, budget: int) -> float:
    own, tokens, passes = replace(session, drafter=drafter), 0, 0
    for seed, story in enumerate(STORIES):
        prompt, options = own.codec.encode(story), AnswerOptions(Sampling(temperature), seed, budget, TOKENS)
        made = own.begin(prompt, options)
        list(own.stream(made, prompt, options, 0))
        tokens, passes = tokens + len(made.answer.ids), passes + made.report.passes
    return tokens / passes


def cells(path: Path) -> Iterator[dict[str, object]]:
    options = ModelOptions(str(path), ("none",), context=1024)
    session, store = open_session(options, Interrupt()), Store(path)
    for temperature in (0.0, 1.0):
        for budget in (16, 64):
            copy = watched(session, store)
            own = tokens_a_pass(session, Grow([copy], 1024), temperature, budget)
            other = tokens_a_pass(session, open_drafter((BUNDLED,), options, session), temperature, budget)
            yield {"temperature": temperature, "budget": budget, "tokens_per_pass": own, "judged": copy.judged,
                   "agreed": copy.agreed / copy.judged, "bundled_draft_tokens_per_pass": other}


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "copied"
        main(["convert", BUNDLED, "--copy", "3bit", "--layout", "tile16", "--out", str(place), "-q"])
        for cell in cells(place):
            print(json.dumps(cell), flush=True)
