"""How much of a prompt a pass reads: until arithmetic takes the longer, inside the ledger."""

from dataclasses import replace

from hypothesis import assume, given
from hypothesis import strategies as st

from offload.chunk import SHARE, chunk, typical
from offload.errors import TooLittleMemory
from offload.footprint import footprint
from offload.machine import Machine
from offload.plan import Demand, plan
from offload.predict import predict
from tests.offload.test_plan import GIB, LLAMA_70B

OF = footprint(LLAMA_70B, "nf4")
TREE = 256


def machine(ram: int, disk: float, products: float) -> Machine:
    """products: weights times tokens a second."""
    return Machine(ram, None, disk, None, {1: products / 64, 64: products / 64, 512: products / 512})


@given(ram=st.integers(8 * GIB, 80 * GIB), disk=st.floats(1e7, 1e10), products=st.floats(1e10, 1e14),
       context=st.sampled_from([2048, 8192, 65536]))
def test_no_pass_over_a_prompt_waits_where_memory_allows(ram: int, disk: float, products: float, context: int) -> None:
    demand, of = Demand(context, 2 * TREE), machine(ram, disk, products)
    try:
        plan(OF, ram, demand)
    except TooLittleMemory:
        assume(False)
    tokens = chunk(OF, of, demand, TREE)
    placed = plan(OF, ram, replace(demand, prompt=tokens + TREE))
    assert placed.bytes <= ram
    assert tokens == TREE or OF.work_token * tokens <= SHARE * ram
    found = predict(OF, placed, of, tokens)
    more = OF.work_token * (2 * tokens + TREE)
    assert (found.arithmetic >= found.stream or tokens >= context or more > SHARE * ram
            or placed.bytes - OF.work_token * (tokens + TREE) + more + OF.layer > ram - placed.pinned * OF.layer)
    if tokens > TREE:
        half = plan(OF, ram, replace(demand, prompt=tokens // 2 + TREE))
        shorter = predict(OF, half, of, tokens // 2)
        assert shorter.arithmetic < shorter.stream, "half of them would have done"


def test_what_stays_in_memory_needs_no_more_than_a_tree() -> None:
    assert chunk(OF, machine(80 * GIB, 1e7, 1e14), Demand(8192, 2 * TREE), TREE) == TREE


def test_a_slow_disk_or_a_fast_processor_asks_for_more() -> None:
    demand = Demand(65536, 2 * TREE)
    found = [chunk(OF, machine(48 * GIB, disk, 1e12), demand, TREE) for disk in (1e10, 1e9, 1e8)]
    assert found == sorted(found)
    assert found[0] == TREE
    assert found[-1] >= 2048
    assert chunk(OF, typical(48 * GIB, 2), demand, TREE) == TREE
    assert chunk(OF, typical(48 * GIB, 64), demand, TREE) > TREE
