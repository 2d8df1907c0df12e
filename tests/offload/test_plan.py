"""Footprints from configurations, and what lives where."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from offload.errors import TooLittleMemory
from offload.footprint import Footprint, footprint
from offload.plan import Demand, gib, plan

LLAMA_70B = {"hidden_size": 8192, "intermediate_size": 28672, "num_hidden_layers": 80, "num_attention_heads": 64,
             "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 128256}
GIB = 2**30


def test_a_70b_shape_takes_what_its_weights_take() -> None:
    found = footprint(LLAMA_70B, "nf4")
    assert found.parameters == 70_553_706_496 - 161 * 8192  # as published, without the norms
    weights = found.layers * found.layer
    assert weights == pytest.approx(68.45e9 * 4.25 / 8, rel=1e-3)
    assert found.kv_token == 80 * 2 * 8 * 128 * 2


COPY = footprint(LLAMA_70B, "3bit").layer


@given(ram=st.integers(GIB, 64 * GIB), context=st.integers(1, 131072), tree=st.integers(1, 1024), draft=st.integers(0, 8 * GIB),
       copy=st.sampled_from([0, COPY]))
def test_the_ledger_stays_below_what_may_be_used(ram: int, context: int, tree: int, draft: int, copy: int) -> None:
    of, demand = footprint(LLAMA_70B, "nf4"), Demand(context, tree, draft, copy=copy)
    try:
        placed = plan(of, ram, demand)
    except TooLittleMemory as error:
        least = error.hint.split()[1].removesuffix("GiB,")
        assert plan(of, int(float(least) * GIB) + 1, demand).bytes > ram
        return
    assert placed.bytes <= ram
    assert placed.streamed == (80 - placed.pinned) * of.layer
    assert placed.pinned == 80 or placed.bytes + of.layer - copy > ram, "another layer would have fitted"
    taken = {entry.what: entry.bytes for entry in placed.ledger}
    assert taken.get("low-bit copy of the others", 0) == (80 - placed.pinned) * copy


def test_a_copy_of_three_bits_takes_three_quarters_of_nf4() -> None:
    assert COPY / footprint(LLAMA_70B, "nf4").layer == pytest.approx(3.25 / 4.25, rel=1e-3)


def test_where_a_copy_takes_more_than_it_spares_the_least_is_the_whole_model() -> None:
    """Of few layers two buffers and all copies are more than the layers."""
    of, demand = footprint(LLAMA_70B | {"num_hidden_layers": 4}, "nf4"), Demand(1024, 64, copy=COPY)
    whole = plan(of, 64 * GIB, demand).bytes
    assert plan(of, whole, demand).pinned == 4
    with pytest.raises(TooLittleMemory) as caught:
        plan(of, whole - 2**20, demand)
    assert caught.value.hint.startswith(f"--ram {gib(whole)}, or --draft lookup")


def test_all_layers_stay_where_there_is_room() -> None:
    placed = plan(footprint(LLAMA_70B, "nf4"), 64 * GIB, Demand(4096, 64))
    assert (placed.pinned, placed.slots, placed.streamed) == (80, 0, 0)


def test_a_name_of_a_size_is_rounded_up() -> None:
    assert [gib(size) for size in (GIB, GIB + 1, 3 * GIB // 2)] == ["1GiB", "1.1GiB", "1.5GiB"]


def test_a_tied_or_old_config_has_its_defaults() -> None:
    small = footprint({"hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 6, "num_attention_heads": 8,
                       "vocab_size": 2048}, "int8")
    assert isinstance(small, Footprint)
    assert small.kv_token == 6 * 2 * 8 * 32 * 2
