"""`specexec bench --shape`: what a model of a published size does on this machine, before anyone downloads it."""

import json
import statistics
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from typing import Any

import torch

from cli import home, render, settings
from cli.bench import machine
from cli.build import fresh, open_drafter, open_session, versions
from cli.convert import chosen_layout
from cli.forecast import arithmetic, sample
from cli.interrupt import Interrupt
from cli.low_bit import COPIED, KIND
from cli.models import ModelOptions
from cli.name import BUNDLED
from cli.passes import Arm, Pass, arm, passes
from cli.session import AnswerOptions, Session
from cli.shape_table import table
from cli.shaped import Shaped, shaped, usual_draft
from cli.subject import Subject, target
from cli.values import AUTO
from offload.disk import read_rate
from offload.live import Live
from offload.machine import Machine, measure
from offload.measured import Measured
from offload.plan import Placement
from offload.predict import predict
from offload.shadow import Shadow
from offload.store import Store
from specexec.drafters.grow import Nothing
from specexec.engines.families import admit
from specexec.engines.kernel_engine import KernelEngine
from specexec.engines.torch_engine import TorchEngine
from specexec.engines.tree_engine import TreeEngine
from specexec.kv.dense import DenseCache
from specexec.roles import Drafter
from specexec.sampling import Sampling

CONTEXT = 1024  # what the bundled pair learnt
COUNTS = (1, 32, 64)  # tokens of the passes that are timed
FEWER = 8  # times, of plain decoding's tokens: each is a pass
PLAIN, SHAPED = "plain", "shaped draft"


def bench_shape(texts: Sequence[str], as_json: bool, given: Mapping[str, Any]) -> int:
    """Makes the stores where they are not there, then measures passes, plain decoding, and what each draft makes of it."""
    large, draft = _wanted(given)
    store = large.store(given["yes"], as_json, KIND if COPIED in given["draft"] else None)
    drafts = (str(draft.store(given["yes"], as_json).path), "lookup") if draft else (BUNDLED, "lookup")
    if COPIED in given["draft"]:
        drafts = (COPIED, "lookup")
    options = replace(settings.model_options(given), model=str(store.path), drafts=drafts, context=given["ctx_size"] or CONTEXT)
    subject = target(str(store.path), None)
    found = _machine(subject, options, as_json)
    with closing(open_session(options, Interrupt())) as session:
        result = _Bench(session, options, given, subject, found).run(large, store, texts)
    if not as_json:
        render.write(table(result))
    render.write(json.dumps(result) + "\n")
    return 0


def _wanted(given: Mapping[str, Any]) -> tuple[Shaped, Shaped | None]:
    layout = chosen_layout("auto")
    large = shaped(given["shape"], "target", given["to"] or "nf4", layout)
    name = given["draft_shape"] or usual_draft(large.expansion.large)
    return large, None if name == "none" or COPIED in given["draft"] else shaped(name, "draft", "nf4", layout)


def _machine(subject: Subject, options: ModelOptions, quiet: bool) -> Machine:
    """Measured now: figures of a run are compared with rates of the same minutes."""
    cache = Measured(home.machine(), True, lambda what: render.note(what, quiet))
    return measure(cache, sample(subject), arithmetic(subject, options.activations))


class _Bench:
    """What is measured of one session over a store."""

    def __init__(
        self, session: Session, options: ModelOptions, given: Mapping[str, Any], subject: Subject, found: Machine
    ) -> None:
        self.session, self.options, self.given, self.subject, self.found = session, options, given, subject, found
        assert session.streamer is not None
        sizes = [piece.size for piece in session.streamer.pieces]
        away = [session.streamer.disk_bytes(index) for index in range(len(sizes))]
        self.placed = Placement(away.count(0), 2, sum(away), ())
        self.pinned = sum(sizes) - sum(away)

    def run(self, large: Shaped, store: Store, texts: Sequence[str]) -> dict[str, Any]:
        chosen, timed = self._chosen(), self._passes()
        arms = {name: self._arm(name, drafter, chosen, texts, timed) for name, drafter in self._drafters().items()}
        exact = arm(self._beside(self._fp32(Shadow(large.expansion, store))), chosen, texts)
        live = store.layout == "tile16"
        own = arm(self._beside(self._kernels(Live(large.expansion, store))), chosen, texts) if live else exact
        return self._result(large, chosen, timed, arms, own, exact)

    def _arm(
        self, name: str, drafter: Drafter, chosen: AnswerOptions, texts: Sequence[str], timed: Sequence[Pass]
    ) -> Arm:
        """What the timed passes took is known to it."""
        auto = fresh(self.session.target)
        auto.price = auto.price.measured(*zip(*((one.n, one.seconds, one.waited) for one in timed), strict=True))
        session = replace(self.session, drafter=drafter, auto=auto)
        return arm(session, replace(chosen, max_tokens=self._tokens(name)), texts)

    def _passes(self) -> list[Pass]:
        """Beside what the disk gives between them: neighbours come and go."""
        rates = [self.found.disk]
        timed = list(passes(self.session.target, COUNTS, lambda: rates.append(self._disk())))
        self.found = replace(self.found, disk=statistics.median(rates))
        return [replace(one, floor=predict(self.subject.of, self.placed, self.found, one.n)) for one in timed]

    def _disk(self) -> float:
        assert self.session.streamer is not None
        self.session.streamer.pause()
        return read_rate(sample(self.subject))

    def _chosen(self) -> AnswerOptions:
        given = {**self.given, "seed": self.given["seed"] or 0, "max_tokens": self._tokens("")}
        return settings.answer_options(given, Sampling(temperature=0))

    def _tokens(self, name: str) -> int:
        tokens = int(self.given["max_tokens"]) if settings.was_given("max_tokens") else 64
        return -(-tokens // FEWER) if name == PLAIN else tokens

    def _drafters(self) -> dict[str, Drafter]:
        first = self.options.drafts[0]
        own = {} if first == BUNDLED else {COPIED if first == COPIED else SHAPED: self.session.drafter}
        return {PLAIN: Nothing(), **own, "bundled draft": open_drafter((BUNDLED, "lookup"), self.options, self.session)}

    def _beside(self, engine: TreeEngine) -> Session:
        """An engine that answers alone, with nothing to stream."""
        return replace(self.session, target=engine, drafter=Nothing(), auto=fresh(engine), streamer=None)

    def _fp32(self, held: Shadow) -> TreeEngine:
        config, tokens = admit(held.config), self.session.target.limits.vocabulary
        cache = DenseCache(config.num_hidden_layers)
        return TorchEngine(config, held, cache, tokens, torch.device("cpu"), torch.float32, context=CONTEXT)

    def _kernels(self, held: Live) -> TreeEngine:
        tokens = self.session.target.limits.vocabulary
        return KernelEngine(admit(held.config), held, tokens, self.options.activations, context=CONTEXT)

    def _result(
        self, large: Shaped, chosen: AnswerOptions, timed: Sequence[Pass], arms: Mapping[str, Arm], own: Arm, exact: Arm
    ) -> dict[str, Any]:
        roofline = self.placed.streamed / self.found.disk  # seconds a pass
        figures = {name: one.figures(roofline) for name, one in arms.items()}
        plain, last = figures[PLAIN]["tokens_per_second"], list(arms.values())[-1]
        return {
            "machine": machine(), "versions": versions(), "seed": chosen.seed, "temperature": chosen.sampling.temperature,
            "shape": large.expansion.title, "format": large.kind, "exact": large.exact, "activations": self.options.activations,
            "budget": chosen.budget or AUTO, "read_bytes_per_second": self.found.disk, "pinned_bytes": self.pinned,
            "streamed_bytes": self.placed.streamed, "layers_in_memory": self.placed.pinned,
            "passes": [one.figures() for one in timed], "arms": figures,
            "ratio": {name: found["tokens_per_second"] / plain for name, found in figures.items() if name != PLAIN},
            "predicted": _predicted(figures), "share_of_floor": timed[0].figures()["share_of_floor"],
            "same_text": _agree(list(arms.values())), "shadow_tokens": own.agrees(last), "fp32_tokens": exact.agrees(last),
            "parting_margins": exact.parting(last),
            "tokens": sum(map(len, own.ids)), "peak_rss_bytes": render.peak_rss_bytes(),
        }


def _predicted(figures: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Tokens a second of drafts that bring so many tokens a pass, at the first draft's price."""
    price = next(found["pass_seconds"] for name, found in figures.items() if name != PLAIN)
    return {str(tokens): tokens / price for tokens in (4, 8, 12)}


def _agree(arms: Sequence[Arm]) -> bool:
    """Whether all wrote the same, as far as the shorter ones go."""
    return all(a[: len(b)] == b[: len(a)] for one in arms[1:] for a, b in zip(arms[0].ids, one.ids, strict=True))
