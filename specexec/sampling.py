"""What the person set for sampling, and how it shapes a row of logits.

A filter is a threshold: entries of a row below it cannot be picked. Renormalising changes no argmax, so nothing is.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from specexec.top import Best, best, top

NUCLEUS = 128  # candidates among which a filter is first decided; eight times as many where they do not settle it


@dataclass(frozen=True)
class Sampling:
    """temperature 0 is greedy; top_k 0, top_p 1, min_p 0, repeat_penalty 1, presence and frequency 0 are off."""

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repeat_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0

    @property
    def divisor(self) -> float:
        """What logits are divided by."""
        return self.temperature or 1.0

    @property
    def penalises(self) -> bool:
        return (self.repeat_penalty, self.presence_penalty, self.frequency_penalty) != (1.0, 0.0, 0.0)

    @property
    def filters(self) -> bool:
        return self.temperature > 0 and (self.top_k, self.top_p, self.min_p) != (0, 1.0, 0.0)


@dataclass(frozen=True)
class Cut:
    """A row's candidates, best first. Entries below the threshold are out; all others are candidates."""

    threshold: torch.Tensor  # fp32[n, 1]
    values: torch.Tensor  # fp32[n, k], descending
    ids: torch.Tensor  # int64[n, k]
    clearance: torch.Tensor  # fp32[n, k]: by how much each candidate is in or out
    log_sum_exp: torch.Tensor  # fp32[n]: of the whole row

    @property
    def out(self) -> torch.Tensor:
        """bool[n, k]"""
        return self.values < self.threshold


class Penalties:
    """Functions of a node's path: repetition (Keskar et al. 2019) over all of it, presence and frequency over the answer."""

    def __init__(self, sampling: Sampling, prompt: Sequence[int], answer: Sequence[int]) -> None:
        self.sampling = sampling
        if sampling.penalises:  # a long prompt takes milliseconds, in every pass
            self.prompt, self.answer = set(prompt), Counter(answer)

    def apply(self, logits: torch.Tensor, paths: Sequence[Sequence[int]]) -> torch.Tensor:
        """fp32[n, V] after the penalties; paths[i]: the drafted tokens up to row i's own."""
        if not self.sampling.penalises:
            return logits
        logits = logits.clone()
        for row, path in zip(logits, paths, strict=True):
            self._apply(row, self.answer + Counter(path))
        return logits

    def _apply(self, row: torch.Tensor, answer: Counter[int]) -> None:
        chosen = self.sampling
        seen = torch.tensor(sorted({*self.prompt, *answer}), device=row.device)
        seen = seen[seen < row.numel()]
        said = row[seen]
        row[seen] = torch.where(said > 0, said / chosen.repeat_penalty, said * chosen.repeat_penalty)
        ids = torch.tensor([t for t in answer if t < row.numel()], device=row.device, dtype=torch.int64)
        counts = torch.tensor([answer[int(t)] for t in ids], device=row.device, dtype=row.dtype)
        row[ids] -= chosen.presence_penalty + chosen.frequency_penalty * counts


def scale(logits: torch.Tensor, sampling: Sampling) -> torch.Tensor:
    """Logits at the temperature; unchanged where the pick is greedy."""
    return logits / sampling.divisor if sampling.divisor != 1.0 else logits


def _decide(x: torch.Tensor, found: Best, sampling: Sampling) -> Cut:
    """top-k, then top-p, then min-p on scaled logits fp32[n, V], of whose best some were found; ties at a border stay in."""
    values, ids, total = found
    border = _border(values, sampling)
    kept = values.masked_fill(values < border, -torch.inf)
    share = (kept - (kept.logsumexp(-1, keepdim=True) if sampling.top_k else total[:, None])).exp()
    before = share.cumsum(-1) - share
    floor = values[:, :1] + (math.log(sampling.min_p) if sampling.min_p else -torch.inf)
    nucleus = sampling.top_p - before if sampling.top_p < 1 else torch.full_like(before, torch.inf)
    inside = (values >= border) & (nucleus > 0) & (values >= floor)
    threshold = values.masked_fill(~inside, torch.inf).amin(-1, keepdim=True)
    settled = values[:, -1:] < (border if sampling.top_k else threshold)  # all that top-k lets in is normalised
    if values.shape[-1] < x.shape[-1] and not bool(settled.all()):
        return _decide(x, Best(*top(x, 8 * values.shape[-1]), total), sampling)
    slack = torch.stack((values - _between(values, border, sampling), nucleus, values - floor)).amin(0)
    return Cut(threshold, values, ids, _with_swaps(values, slack.abs(), inside), total)


def _with_swaps(values: torch.Tensor, slack: torch.Tensor, inside: torch.Tensor) -> torch.Tensor:
    """fp32[n, k]: slack, or less where a near equal next to the border could trade places with a candidate."""
    last = (inside.sum(-1, keepdim=True) - 1).clamp(min=0)
    first = (last + 1).clamp(max=values.shape[-1] - 1)
    apart = (values - (values.gather(1, last) + values.gather(1, first)) / 2).abs().masked_fill(first == last, torch.inf)
    traded = [slack.gather(1, near) + (values - values.gather(1, near)).abs() for near in (last, first)]
    return torch.stack((slack, apart, *traded)).amin(0)


def _border(values: torch.Tensor, sampling: Sampling) -> torch.Tensor:
    """fp32[n, 1]: the smallest value top-k lets in."""
    if 0 < sampling.top_k < values.shape[-1]:
        return values[:, sampling.top_k - 1, None]
    return torch.full_like(values[:, :1], -torch.inf)


def _between(values: torch.Tensor, border: torch.Tensor, sampling: Sampling) -> torch.Tensor:
    """fp32[n, 1]: half way between the last value top-k lets in and the first it keeps out."""
    if 0 < sampling.top_k < values.shape[-1]:
        return (border + values[:, sampling.top_k, None]) / 2
    return border


def cut(x: torch.Tensor, sampling: Sampling) -> Cut | None:
    """The filters' decision for scaled logits fp32[n, V], or None where nothing filters."""
    if not sampling.filters:
        return None
    return _decide(x, best(x, max(NUCLEUS, sampling.top_k + 1)), sampling)
