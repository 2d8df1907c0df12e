"""Where long contexts begin to count: each figure is where two costs meet."""

from collections.abc import Mapping
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from offload.crossover import GUESSES, RIGHT, STEP, Resident, as_large
from offload.footprint import footprint
from tests.offload.test_plan import LLAMA_70B

OF = footprint(LLAMA_70B | {"num_hidden_layers": 16, "hidden_size": 2048, "intermediate_size": 8192}, "nf4")
LONGEST, ROWS = 131072, 4096
rates = st.floats(1e8, 1e12)


def resident(products: float, seen: float, queries: int = 10**6, chosen: float | None = None) -> Resident:
    """products, seen: weights and bytes a second of one token; so many queries see as fast as one. chosen: bytes of a view."""
    attention: Mapping[int, float] = {1: seen, queries: seen, 2 * queries: seen / 2}
    return Resident(OF, {1: products, 512: products}, attention, {1: chosen or seen}, LONGEST)


@given(products=rates, seen=rates)
def test_attention_takes_as_long_as_weights_where_that_is_said(products: float, seen: float) -> None:
    of = resident(products, seen)
    context = of.as_long()
    weights = of.seconds(1, 0)
    if context is None:
        assert of.seeing(1, LONGEST) <= weights * (1 + 1e-9)
    else:
        assert of.seeing(1, context) >= weights * (1 - 1e-9)
        assert of.seeing(1, context - 2) <= weights


@given(products=rates, seen=rates, chosen=rates)
def test_a_view_pays_from_there_on_and_not_before(products: float, seen: float, chosen: float) -> None:
    of = resident(products, seen, chosen=chosen)
    found = of.pays(ROWS)

    def ratio(context: int) -> float:
        seeing = OF.kv_token * min(ROWS, context) / chosen
        drafting = GUESSES * (of.seconds(1, 0) + seeing * OF.group) + of.seconds(GUESSES + 1, context)
        return (RIGHT + 1) * of.seconds(1, context) / drafting

    assert all(ratio(context) <= 1 for context in range(STEP, (found or LONGEST + STEP), STEP))
    assert found is None or ratio(found) > 1


def test_it_pays_the_earlier_the_more_attention_takes() -> None:
    found = [resident(1e10, seen).pays(ROWS) or LONGEST + 1 for seen in (1e11, 1e10, 1e9)]
    assert found == sorted(found, reverse=True)
    assert found[0] > found[-1]
    assert resident(1e10, 1e9, queries=1).pays(ROWS) is None, "where many queries see no faster than one by one, never"


def test_as_many_bytes_as_the_weights() -> None:
    context = as_large(OF)
    assert OF.kv_token * (context - 1) < OF.layers * OF.layer + OF.head <= OF.kv_token * context
    assert as_large(replace(OF, kv_token=2 * OF.kv_token)) <= context // 2 + 1
