"""Frequencies of rotary position embeddings (RoFormer, arXiv 2104.09864) that never change: transformers' own, to the bit."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch

from specexec.errors import Unsupported

Frequencies = tuple[torch.Tensor, float]
"""fp32[dim/2], radians a position; and the factor of cosines and sines."""
THETA = 10_000.0  # where a configuration says nothing
LEARNT = "original_max_position_embeddings"


def frequencies(raw: Mapping[str, Any], dim: int, context: int) -> Frequencies:
    """Of heads of `dim` elements. raw: config.json, also as older ones say it; context: positions the model was trained on.

    Raises Unsupported; TypeError, ValueError, KeyError or ArithmeticError for what means nothing.
    """
    told = raw.get("rope_scaling") or raw.get("rope_parameters") or {}
    said = {"rope_type": told.get("type", "default"), "rope_theta": raw.get("rope_theta", THETA), LEARNT: context, **told}
    said |= {LEARNT: raw[LEARNT]} if LEARNT in raw else {}
    _check(said, {**raw, **said})
    found, scaling = KINDS[said["rope_type"]](said, dim, context)
    if not (found.isfinite() & (found > 0)).all() or not 0 < scaling < math.inf:
        raise ValueError("RoPE's frequencies are no positive numbers")
    return found, float(scaling)


def _check(said: Mapping[str, Any], everywhere: Mapping[str, Any]) -> None:
    kind = str(said["rope_type"])
    if kind not in KINDS:  # dynamic and longrope change earlier positions as a text grows
        raise Unsupported(f'rope scaling "{kind}" is not supported.', hint=f"a model with rope type {', '.join(KINDS)}")
    if everywhere.get("partial_rotary_factor") not in (None, 1) or any(isinstance(of, dict) for of in said.values()):
        raise Unsupported("RoPE of a part of each head, or of some layers alone, is not supported.",
                          hint="a model whose positions all turn alike")


def _default(said: Mapping[str, Any], dim: int, context: int) -> Frequencies:
    return 1.0 / _periods(said, dim), 1.0


def _periods(said: Mapping[str, Any], dim: int) -> torch.Tensor:
    return said["rope_theta"] ** (torch.arange(0, dim, 2).float() / dim)  # type: ignore[no-any-return]


def _linear(said: Mapping[str, Any], dim: int, context: int) -> Frequencies:
    return 1.0 / _periods(said, dim) / said["factor"], 1.0


def _llama3(said: Mapping[str, Any], dim: int, context: int) -> Frequencies:
    """Llama 3.1's: slow ones divided by the factor, fast ones as they are, and between the two a mixture."""
    plain, factor, low, high = 1.0 / _periods(said, dim), said["factor"], said["low_freq_factor"], said["high_freq_factor"]
    length = 2 * math.pi / plain
    slow, fast = length > said[LEARNT] / low, length < said[LEARNT] / high
    found = torch.where(slow, plain / factor, plain)
    share = (said[LEARNT] / length - low) / (high - low)
    return torch.where(~fast & ~slow, (1 - share) * found / factor + share * found, found), 1.0


def _yarn(said: Mapping[str, Any], dim: int, context: int) -> Frequencies:
    """YaRN (arXiv 2309.00071): each between itself and itself divided by the factor."""
    factor = context / said[LEARNT] if said["factor"] is None else said["factor"]
    fast, slow = said.get("beta_fast") or 32, said.get("beta_slow") or 1
    low, high = (_turning(said, dim, turns) for turns in (fast, slow))
    if said.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, dim - 1)
    kept = 1 - ((torch.arange(dim // 2).float() - low) / (high + (0.001 if low == high else 0) - low)).clamp(0, 1)
    periods = _periods(said, dim)
    return 1.0 / (factor * periods) * (1 - kept) + 1.0 / periods * kept, _temperature(said, factor)


def _turning(said: Mapping[str, Any], dim: int, turns: float) -> float:
    """Which dimension turns so often in the context that was learnt."""
    return (dim * math.log(said[LEARNT] / (turns * 2 * math.pi))) / (2 * math.log(said["rope_theta"]))


def _temperature(said: Mapping[str, Any], factor: float) -> float:
    if said.get("attention_factor") is not None:
        return float(said["attention_factor"])
    above, below = said.get("mscale"), said.get("mscale_all_dim")
    return _grown(above, factor) / _grown(below, factor) if above and below else _grown(1, factor)


def _grown(scale: float, factor: float) -> float:
    return 0.1 * scale * math.log(max(factor, 1)) + 1.0


KINDS: Mapping[str, Callable[[Mapping[str, Any], int, int], Frequencies]] = {
    "default": _default, "linear": _linear, "llama3": _llama3, "yarn": _yarn}
