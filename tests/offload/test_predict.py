"""Seconds of a pass from sizes and rates: they rise and fall with what they depend on, and with nothing else."""

from dataclasses import replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from offload.errors import TooLittleMemory
from offload.footprint import footprint
from offload.machine import COUNTS, Machine
from offload.outlook import DRAFT_PASSES, Draft, Outlook, ranked
from offload.plan import Demand, Placement
from offload.predict import arithmetic, predict
from tests.offload.test_plan import GIB, LLAMA_70B

OF = footprint(LLAMA_70B, "nf4")
DEMAND = Demand(8192, 2200)

rates = st.floats(1e6, 1e13)


@st.composite
def products(draw: st.DrawFn) -> dict[int, float]:
    """More tokens together never take less time."""
    found = sorted(draw(st.lists(rates, min_size=len(COUNTS), max_size=len(COUNTS))), reverse=True)
    return dict(zip(COUNTS, found, strict=True))


machines = st.builds(Machine, st.integers(8 * GIB, 64 * GIB), st.none(), rates, st.none(), products())
counts = st.integers(1, 5000)


def streaming(count: int) -> Placement:
    return Placement(0, 2, count, ())


def test_all_but_the_embedding_is_multiplied() -> None:
    assert OF.multiplied == OF.parameters - 128256 * 8192
    assert pytest.approx(69.5e9, rel=1e-3) == OF.multiplied


@given(machine=machines, n=counts, streamed=st.integers(0, 2**40))
def test_a_pass_takes_the_larger_of_its_two_parts(machine: Machine, n: int, streamed: int) -> None:
    found = predict(OF, streaming(streamed), machine, n)
    assert found.stream == streamed / machine.disk
    assert found.arithmetic == arithmetic(OF.multiplied, machine.products, n)
    assert found.seconds == max(found.stream, found.arithmetic)
    assert found.limit == ("disk" if found.stream > found.arithmetic else "arithmetic")


@given(machine=machines, n=counts, more=counts, streamed=st.integers(0, 2**40), bytes=st.integers(0, 2**40))
def test_more_tokens_or_bytes_never_take_less(machine: Machine, n: int, more: int, streamed: int, bytes: int) -> None:
    before = predict(OF, streaming(streamed), machine, n).seconds
    assert predict(OF, streaming(streamed), machine, n + more).seconds >= before * (1 - 1e-12)
    assert predict(OF, streaming(streamed + bytes), machine, n).seconds >= before


@given(machine=machines, n=counts, streamed=st.integers(0, 2**40), times=st.floats(1, 100))
def test_higher_rates_never_take_more(machine: Machine, n: int, streamed: int, times: float) -> None:
    before = predict(OF, streaming(streamed), machine, n)
    quick = predict(OF, streaming(streamed), replace(machine, disk=times * machine.disk), n)
    assert quick.stream == pytest.approx(before.stream / times)
    strong = replace(machine, products={count: times * rate for count, rate in machine.products.items()})
    assert predict(OF, streaming(streamed), strong, n).arithmetic == pytest.approx(before.arithmetic / times)


def test_seconds_a_weight_lie_on_lines_between_what_was_measured() -> None:
    measured = {1: 100.0, 9: 50.0, 17: 10.0}
    assert [arithmetic(1000, measured, n) for n in (1, 9, 17)] == pytest.approx([10, 20, 100])
    assert arithmetic(1000, measured, 5) == pytest.approx(15)
    assert arithmetic(1000, measured, 13) == pytest.approx(60)
    assert arithmetic(1000, measured, 34) == pytest.approx(200), "beyond what was measured, in proportion"
    assert arithmetic(1000, {8: 10.0}, 16) == pytest.approx(200)
    assert arithmetic(1000, {8: 50.0, 16: 10.0}, 1) == pytest.approx(20), "fewer than were measured take as long as they"


# --- tokens a second


@given(machine=machines, nodes=st.integers(1, 1024), tokens=st.integers(1, 20))
def test_drafting_adds_its_own_seconds(machine: Machine, nodes: int, tokens: int) -> None:
    without = outlook(machine)
    made = replace(without, drafts=(Draft(10**9, machine.products),)).speculation(nodes, tokens)
    assert without.speculation(nodes, tokens).draft == 0
    width = max(1, round(nodes / 6))
    assert made.draft == pytest.approx(DRAFT_PASSES * tokens * arithmetic(10**9, machine.products, width))
    assert made.target == predict(OF, without.placement, machine, nodes + 1)
    assert made.tokens_per_second == pytest.approx(tokens / (made.target.seconds + made.draft))


@given(machine=machines)
def test_no_help_makes_it_slower(machine: Machine) -> None:
    now = replace(outlook(machine), drafts=(Draft(10**9, machine.products),))
    changed = [now.with_memory(8 * GIB), now.with_disk(2), now.with_processor(2)]
    helps = ranked(now, zip(("memory", "disk", "processor"), changed, strict=True))
    assert all(1 - 1e-9 <= help.factor <= 2 + 1e-9 or help.what == "memory" for help in helps)
    assert [help.factor for help in helps] == sorted((help.factor for help in helps), reverse=True)


def test_what_helps_most_is_what_limits() -> None:
    fast, slow = dict.fromkeys(COUNTS, 1e15), dict.fromkeys(COUNTS, 1e6)

    def best(disk: float, products: dict[int, float]) -> str:
        now = outlook(Machine(20 * GIB, None, disk, None, products))
        return ranked(now, [("disk", now.with_disk(2)), ("processor", now.with_processor(2))])[0].what

    assert (best(1e6, fast), best(1e15, slow)) == ("disk", "processor")


def test_a_processor_twice_as_fast_halves_all_arithmetic() -> None:
    machine = Machine(40 * GIB, None, 1e9, None, dict.fromkeys(COUNTS, 1e9))
    now = replace(outlook(machine), drafts=(Draft(10**10, machine.products),))
    assert now.with_processor(2).factor(now) == pytest.approx(2)


def test_memory_that_holds_everything_leaves_nothing_to_read() -> None:
    now = outlook(Machine(36 * GIB, None, 1e9, None, dict.fromkeys(COUNTS, 1e12)))
    assert now.plain.stream > 0
    assert now.with_memory(8 * GIB).plain.stream == 0


def outlook(machine: Machine) -> Outlook:
    found = Outlook(OF, DEMAND, machine)
    try:
        assert found.placement
    except TooLittleMemory:
        assume(False)
    return found
