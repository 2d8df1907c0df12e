"""A loaded model that answers, one answer after the other, over one KV cache."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from cli.codec import Codec
from cli.interrupt import Interrupt
from specexec.answer import Answer, Endings
from specexec.decode import Step, decode
from specexec.engines.tree_engine import TreeEngine
from specexec.errors import Interrupted
from specexec.noise import Noise
from specexec.report import Report
from specexec.roles import Drafter, Worth
from specexec.sampling import Sampling


@dataclass(frozen=True)
class AnswerOptions:
    """seed and number fix the noise; budget: nodes of a tree."""

    sampling: Sampling
    seed: int
    budget: int
    max_tokens: int | None = None
    stops: tuple[str, ...] = ()


@dataclass
class Generation:
    """An answer under way, and what it cost so far."""

    answer: Answer
    report: Report
    seconds: float = 0.0


@dataclass(frozen=True)
class Session:
    target: TreeEngine
    drafter: Drafter
    codec: Codec
    eos: frozenset[int]
    sampling: Sampling  # the model's own defaults
    interrupt: Interrupt

    @property
    def context(self) -> int:
        return self.target.limits.context

    def begin(self, prompt: Sequence[int], options: AnswerOptions) -> Generation:
        endings = Endings(self.eos, self.context - len(prompt), options.stops, options.max_tokens)
        return Generation(Answer(self.codec, prompt, endings), Report(self.target.rounding))

    def stream(self, made: Generation, prompt: Sequence[int], options: AnswerOptions, number: int) -> Iterator[str]:
        """Yields text as it is accepted; Ctrl-C ends the answer within one layer of a pass."""
        noise = Noise(options.seed, number, len(prompt), self.target.limits.vocabulary,
                      silent=options.sampling.temperature == 0, device=self.target.device)
        steps = decode(self.target, self.drafter, Worth(options.budget), options.sampling, noise, prompt, made.answer)
        began = time.perf_counter()
        with self.interrupt.listening():
            try:
                for step in steps:
                    yield self._account(made, step, began)
            except Interrupted:
                yield made.answer.close("interrupted")
        made.seconds = time.perf_counter() - began

    def _account(self, made: Generation, step: Step, began: float) -> str:
        made.report.add(step)
        made.seconds = time.perf_counter() - began
        return step.text
