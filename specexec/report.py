"""What an answer cost: the figures of `run --json` and of the line of statistics."""

from dataclasses import dataclass, field

from specexec.decode import Step


@dataclass
class Report:
    """Adds up steps. rounding: logits closer than this may trade places. margins: of each token over the next best."""

    rounding: float
    passes: int = 0
    tokens: int = 0  # produced by the passes, before the answer's end cut them
    drafted: int = 0
    budget: int = 0  # nodes of the last tree, its root not counted
    predicted: float = 0.0
    draft_seconds: float = 0.0
    target_seconds: float = 0.0
    first_seconds: float = 0.0  # the first pass, which reads the prompt
    first_close_call: int | None = None
    accepted: list[int] = field(default_factory=list)
    margins: list[float] = field(default_factory=list)

    def add(self, step: Step) -> None:
        margins = step.verdict.margins
        if self.first_close_call is None and min(margins) < self.rounding:
            self.first_close_call = self.tokens + next(i for i, margin in enumerate(margins) if margin < self.rounding)
        if not self.passes:
            self.first_seconds = step.draft_seconds + step.target_seconds
        self.passes += step.passes
        self.tokens += len(step.verdict.tokens)
        self.accepted += [len(step.verdict.tokens) // step.passes] * step.passes
        self.margins += step.verdict.margins
        self.budget = len(step.tree) - 1
        self.drafted += self.budget
        self.predicted += step.passes + sum(step.tree.chance[1:])
        self.draft_seconds += step.draft_seconds
        self.target_seconds += step.target_seconds

    @property
    def tokens_per_pass(self) -> float | None:
        return self.tokens / self.passes if self.passes else None

    @property
    def predicted_tokens_per_pass(self) -> float | None:
        return self.predicted / self.passes if self.passes else None
