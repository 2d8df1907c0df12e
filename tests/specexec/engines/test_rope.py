"""RoPE's frequencies are transformers' own, to the bit, however config.json says them."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from specexec.engines.rope import KINDS, frequencies

LEARNT = "original_max_position_embeddings"
factors = st.floats(1.0, 64.0) | st.integers(1, 64)
thetas = st.sampled_from([10000, 10000.0, 500000.0, 1000000, 150000.5])
lengths = st.sampled_from([1024, 2048, 8192, 32768])
OF_KIND: dict[str, dict[str, st.SearchStrategy[Any]]] = {
    "default": {}, "linear": {"factor": factors},
    "llama3": {"factor": factors, "low_freq_factor": st.floats(0.5, 2.0), "high_freq_factor": st.floats(2.5, 8.0),
               LEARNT: lengths},
    "yarn": {"factor": factors | st.none(), LEARNT: lengths},
}
MAY: dict[str, st.SearchStrategy[Any]] = {
    "attention_factor": st.floats(0.5, 2.0), "beta_fast": st.sampled_from([16, 32.0, 64]),
    "beta_slow": st.sampled_from([1, 2.0]),
    "mscale": st.sampled_from([0.707, 1.0, 0]), "mscale_all_dim": st.sampled_from([0.5, 1, 1.0]), "truncate": st.booleans(),
}


@st.composite
def said(draw: st.DrawFn) -> dict[str, Any]:
    """What config.json may say, in today's words or in older ones."""
    kind = draw(st.sampled_from(list(KINDS)))
    of = {name: draw(value) for name, value in OF_KIND[kind].items()}
    of |= draw(st.fixed_dictionaries({}, optional=MAY)) if kind == "yarn" else {}
    apart = {LEARNT: of.pop(LEARNT)} if LEARNT in of and draw(st.booleans()) else {}
    theta = {"rope_theta": draw(thetas)} if draw(st.booleans()) or kind == "llama3" else {}
    if draw(st.booleans()):
        return {**apart, "rope_parameters": {"rope_type": kind, **of, **theta}}
    scaling = None if kind == "default" else {draw(st.sampled_from(["type", "rope_type"])): kind, **of}
    return {**apart, **theta, "rope_scaling": scaling}


@given(said(), st.sampled_from([16, 64, 96, 128]), st.sampled_from([4096, 65536]))
def test_they_are_those_of_transformers(raw: dict[str, Any], dim: int, context: int) -> None:
    found, scaling = frequencies(raw, dim, context)
    copied = {name: dict(value) if isinstance(value, dict) else value for name, value in raw.items()}
    theirs = LlamaRotaryEmbedding(LlamaConfig(head_dim=dim, max_position_embeddings=context, **copied))
    assert torch.equal(found, theirs.inv_freq)
    assert scaling == float(theirs.attention_scaling)


@pytest.mark.parametrize("raw", [
    {"rope_theta": None}, {"rope_theta": "10000"}, {"rope_theta": -1.0}, {"rope_theta": 0}, {"rope_theta": float("nan")},
    {"rope_scaling": {"type": "linear"}}, {"rope_scaling": {"type": "linear", "factor": 0}}, {"rope_scaling": [1]},
    {"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, {"rope_scaling": {"rope_type": "yarn", "factor": "4"}},
    {"rope_scaling": {"rope_type": "yarn", "factor": 4.0, LEARNT: 0}},
], ids=str)
def test_what_means_nothing_is_no_frequency(raw: dict[str, Any]) -> None:
    with pytest.raises((TypeError, ValueError, KeyError, ArithmeticError, AttributeError)):
        frequencies(raw, 64, 4096)
