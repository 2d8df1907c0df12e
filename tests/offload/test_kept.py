"""Ways to keep keys and values: what each takes is what a pass of its own plan takes, and the fastest comes first."""

from collections.abc import Mapping
from dataclasses import replace

import pytest

from cli.ledger import planned
from offload.crossover import GUESSES, RIGHT, as_large
from offload.footprint import Footprint, footprint
from offload.kept import LARGE, Way, by_itself, ways
from offload.machine import Machine
from offload.outlook import Outlook
from offload.plan import Demand
from tests.offload.test_plan import LLAMA_70B

GIB = 2**30
OF = footprint(LLAMA_70B | {"num_hidden_layers": 32, "hidden_size": 4096, "intermediate_size": 14336}, "nf4")
RATES: Mapping[str, float] = {"bf16": 2e10, "int8": 4e10, "int4": 6e10}
CHOSEN: Mapping[str, float] = {"bf16": 1.5e10, "int4": 2.5e10}
ROWS = 4096


def outlook(context: int, ram: int = 64 * GIB, of: Footprint = OF) -> Outlook:
    made, chosen = ({kv: dict.fromkeys((1, 512), rate) for kv, rate in rates.items()} for rates in (RATES, CHOSEN))
    machine = Machine(ram, None, 2e9, None, {1: 4e10, 512: 4e10 / 512}, made, chosen)
    return Outlook(of, Demand(context, 512), machine)


def found(of: Outlook) -> dict[str, Way]:
    return {way.options: way for way in ways(of, ROWS)}


def test_a_way_takes_what_its_own_plan_takes() -> None:
    of = outlook(32768)
    for kv in RATES:
        plain = found(of)[f"--kv {kv}"]
        assert plain.seconds == replace(of, demand=replace(of.demand, kv=kv)).plain.seconds == 1 / plain.speed
        weights = OF.multiplied / 4e10
        assert plain.seconds == pytest.approx(weights + OF.kv_token * 32768 * OF.group / (RATES[kv] * OF.group), rel=1e-9)


def test_a_model_that_drafts_for_itself_reads_what_its_view_holds() -> None:
    of, weights, row = outlook(32768), OF.multiplied / 4e10, OF.kv_token / RATES["bf16"]
    upper = found(of)["--kv int8 --draft self --draft-kv int4"]
    assert upper.draft == pytest.approx(weights + 32768 * row / 3)
    chosen = found(of)["--kv bf16 --draft self --draft-kv retrieval"]
    assert chosen.draft == pytest.approx(weights + ROWS * OF.kv_token / CHOSEN["bf16"])
    both = found(of)["--kv int8 --draft self --draft-kv retrieval"]
    assert both.draft == pytest.approx(weights + ROWS * OF.kv_token / CHOSEN["int4"]), "the upper halves of chosen rows"
    checked = replace(of, demand=replace(of.demand, kv="int8")).at(32768, GUESSES + 1).seconds
    assert both.speed == pytest.approx((RIGHT + 1) / (GUESSES * both.draft + checked))


def test_the_fastest_comes_first_and_changes_with_the_context() -> None:
    for context in (1024, 131072):
        speeds = [way.speed for way in ways(outlook(context), ROWS)]
        assert speeds == sorted(speeds, reverse=True)
    short, long = (found(outlook(context)) for context in (1024, 131072))
    assert short["--kv bf16"].speed < short["--kv int8"].speed < 1.1 * short["--kv bf16"].speed
    assert long["--kv int8"].speed > 1.4 * long["--kv bf16"].speed


def test_a_model_that_streams_has_no_views_and_what_does_not_fit_is_left_out() -> None:
    streamed = outlook(8192, 4 * GIB)
    assert streamed.placement.streamed
    assert set(found(streamed)) == {"--kv bf16", "--kv int8", "--kv int4"}
    assert set(found(outlook(65536, 6 * GIB))) == {"--kv int4", "--kv int8"}


def test_eight_bits_are_chosen_where_keys_and_values_are_most_of_what_a_pass_reads() -> None:
    border = as_large(OF)
    assert OF.kv_token * border > LARGE
    for context, kv in ((border - 256, "bf16"), (border, "int8")):
        assert by_itself(OF, context) == (kv == "int8")
        assert planned(OF, 64 * GIB, Demand(context, 512), "auto").kv == kv
        assert planned(OF, 64 * GIB, Demand(context, 512), "bf16").kv == "bf16"
    small = replace(OF, layer=OF.layer // 1000, head=0, kv_token=OF.kv_token // 1000)
    assert not by_itself(small, border), "what is small is small in bf16 too"
    assert planned(OF, 7 * GIB, Demand(border, 512), "auto").streamed, "what streams waits for its weights"
