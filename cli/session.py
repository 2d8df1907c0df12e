"""A loaded model that answers, one answer after the other, over one KV cache."""

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from cli.cache_file import CacheFile
from cli.codec import Codec
from cli.interrupt import Interrupt
from cli.pulse import Pulse
from offload.size import size
from offload.stream import Streaming
from specexec.answer import Answer, Endings
from specexec.budget import Auto, Fixed
from specexec.conversation import check_fits
from specexec.decode import decode
from specexec.drafters.grow import Nothing
from specexec.engines.tree_engine import TreeEngine
from specexec.errors import Interrupted, WrongUsage
from specexec.noise import Noise
from specexec.report import Report
from specexec.roles import Budget, Drafter
from specexec.sampling import Sampling

ROOM = 256  # tokens that an answer should have


@dataclass(frozen=True)
class AnswerOptions:
    """seed and number fix the noise; budget: nodes of a tree, None for what turns out to be fastest."""

    sampling: Sampling
    seed: int
    budget: int | None = None
    max_tokens: int | None = None
    stops: tuple[str, ...] = ()


@dataclass
class Generation:
    """An answer under way, and what it cost so far."""

    answer: Answer
    report: Report
    seconds: float = 0.0
    streamed_bytes: int = 0


@dataclass(frozen=True)
class Session:
    target: TreeEngine
    drafter: Drafter
    codec: Codec
    eos: frozenset[int]
    sampling: Sampling  # the model's own defaults
    interrupt: Interrupt
    auto: Auto  # what was learnt of the best budget
    pulse: Pulse  # of the target's passes
    layers: int  # of the target
    streamer: Streaming | None = None  # of the target's weights
    longest: int = 0  # positions that the model was trained on
    position_bytes: int = 0  # of the KV cache
    smaller_kv: str | None = None  # what to say of its format, where nobody asked for it
    kept: CacheFile | None = None

    @property
    def context(self) -> int:
        return self.target.limits.context

    def check_room(self, tokens: int) -> None:
        """Raises WrongUsage unless a prompt of `tokens` leaves room for an answer; says which context would."""
        try:
            check_fits(tokens, self.context)
        except WrongUsage as error:
            enough = min(2 ** (tokens + ROOM - 1).bit_length(), self.longest)
            more = size((enough - self.context) * self.position_bytes)
            larger = f"--ctx-size {enough} (+{more}), or a shorter prompt"
            least = f"a shorter prompt: {self.longest:,} is all that this model was trained on"
            raise WrongUsage(str(error), hint=larger if enough > tokens else least) from error

    def begin(self, prompt: Sequence[int], options: AnswerOptions) -> Generation:
        endings = Endings(self.eos, self.context - len(prompt), options.stops, options.max_tokens)
        return Generation(Answer(self.codec, prompt, endings), Report(self.target.rounding))

    def stream(self, made: Generation, prompt: Sequence[int], options: AnswerOptions, number: int) -> Iterator[str]:
        """Yields text as it is accepted; Ctrl-C ends the answer within one layer of a pass, and so does what is raised."""
        noise = Noise(options.seed, number, len(prompt), self.target.limits.vocabulary,
                      silent=options.sampling.temperature == 0, device=self.target.device)
        steps = decode(self.target, self.drafter, self._budget(options), options.sampling, noise, prompt, made.answer)
        began, before = time.perf_counter(), self._streamed_bytes
        with self.interrupt.listening():
            try:
                if self.kept:
                    self.kept.begin(prompt)
                for step in steps:
                    made.report.add(step)
                    made.seconds, made.streamed_bytes = time.perf_counter() - began, self._streamed_bytes - before
                    yield step.text
            except Interrupted:
                yield made.answer.close("interrupted")
            except Exception:
                yield made.answer.close("failed")
                raise
        made.seconds, made.streamed_bytes = time.perf_counter() - began, self._streamed_bytes - before

    def keeping(self, texts: Iterable[str]) -> Iterator[str]:
        """The same texts; when the first of them has come, what was read is kept in the file."""
        for text in texts:
            if text and self.kept and not self.interrupt.requested():
                self.kept.keep()
            yield text

    def _budget(self, options: AnswerOptions) -> Budget:
        if isinstance(self.drafter, Nothing):
            return Fixed(0)
        return self.auto if options.budget is None else Fixed(min(options.budget, self.target.limits.tree - 1))

    @property
    def remarks(self) -> Iterator[str]:
        """What the person should know of the model as it was opened, a line each."""
        if self.streamer and self.streamer.why_plain:
            yield f"{self.streamer.folder}: {self.streamer.why_plain}, so layers stream through the page cache"
        if self.smaller_kv:
            yield self.smaller_kv
        if self.kept:
            yield self.kept.remark

    def close(self) -> None:
        """Ends its thread and closes its files; it answers no more."""
        if self.streamer:
            self.streamer.close()

    @property
    def _streamed_bytes(self) -> int:
        return self.streamer.streamed_bytes if self.streamer else 0
