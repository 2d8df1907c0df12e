"""Whether two tokenizers speak of the same tokens, and which id is which."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch

from specexec.errors import WrongUsage


@dataclass(frozen=True)
class Vocabulary:
    """A draft's ids seen from the target. of_target: int64[V], the draft's id of each target id; None where all are equal."""

    of_target: torch.Tensor | None

    def to_draft(self, tokens: Sequence[int]) -> list[int]:
        return list(tokens) if self.of_target is None else [self._ids[token] for token in tokens]

    @cached_property
    def _ids(self) -> list[int]:
        assert self.of_target is not None
        ids: list[int] = self.of_target.tolist()
        return ids

    def to_target(self, logits: torch.Tensor) -> torch.Tensor:
        """Columns of fp32[n, draft's V] in the order of the target's ids."""
        return logits if self.of_target is None else logits[:, self.of_target]


def match(target: Mapping[str, int], draft: Mapping[str, int]) -> Vocabulary:
    """How the draft's ids map to the target's; both map token strings to ids.

    Padded rows of a model have no strings and are not compared. Raises WrongUsage, naming the first token they disagree on.
    """
    if target.keys() != draft.keys():
        where = _first_difference(target, draft)
        raise WrongUsage(f"draft and target disagree at {where}.", hint="--draft auto, or --draft lookup")
    if target == draft:
        return Vocabulary(None)
    ids = torch.zeros(max(target.values()) + 1, dtype=torch.int64)
    for string, token in target.items():
        ids[token] = draft[string]
    return Vocabulary(ids)


def _first_difference(target: Mapping[str, int], draft: Mapping[str, int]) -> str:
    strings = [{token: string for string, token in side.items()} for side in (target, draft)]
    lone = target.keys() ^ draft.keys()
    token = min(side[string] for side in (target, draft) for string in lone if string in side)
    shown = " / ".join(f'"{side[token]}"' if token in side else "nothing" for side in strings)
    return f"token {token:,} ({shown})"
