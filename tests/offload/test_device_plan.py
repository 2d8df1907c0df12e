"""What lives where on a machine with a device."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from offload.device_plan import DEQUANTISED, SCORES, DeviceFootprint, on_device, plan_device
from offload.errors import TooLittleMemory
from offload.footprint import Footprint, footprint
from offload.plan import SLOTS, Demand, Placement
from tests.offload.test_plan import GIB, LLAMA_70B

sizes = st.integers(GIB, 96 * GIB)
contexts = st.integers(1, 131072)
trees = st.integers(1, 2200)
drafts = st.integers(0, 8 * GIB)


def shape(demand: Demand, layers: int = 80) -> tuple[Footprint, DeviceFootprint]:
    config = LLAMA_70B | {"num_hidden_layers": layers}
    of = footprint(config, "nf4")
    return of, on_device(config, of, demand, 2, 2**17)


def placed(demand: Demand, ram: int, vram: int) -> Placement | None:
    """None: it does not fit."""
    try:
        return plan_device(*shape(demand), ram, vram, demand)
    except TooLittleMemory:
        return None


@given(ram=sizes, vram=sizes, demand=st.builds(Demand, contexts, trees, drafts), layers=st.integers(1, 90))
def test_neither_ledger_passes_its_ceiling_and_the_least_is_named(ram: int, vram: int, demand: Demand, layers: int) -> None:
    of, device = shape(demand, layers)
    try:
        found = plan_device(of, device, ram, vram, demand)
    except TooLittleMemory as error:
        option, least = error.hint.split(",")[0].split()
        enough = int(float(least.removesuffix("GiB")) * GIB) + 1
        assert enough > (ram if option == "--ram" else vram)
        room = {"--ram": 10**15, "--vram": 10**15, option: enough}
        assert plan_device(of, device, room["--ram"], vram if option == "--ram" else room["--vram"], demand)
        return
    assert found.bytes <= ram
    assert found.device_bytes <= vram
    assert found.copied == (layers - found.on_device) * of.layer
    assert found.streamed == (layers - found.on_device - found.pinned) * of.layer
    assert found.device_slots == (0 if found.on_device == layers else SLOTS)
    assert found.slots == (SLOTS if found.streamed else 0)
    assert found.on_device == layers or found.device_bytes + device.layer > vram, "another layer would have fitted"
    assert not found.streamed or found.bytes + of.layer > ram, "another layer would have fitted"


@given(ram=sizes, vram=sizes, more_ram=drafts, more_vram=drafts, demand=st.builds(Demand, contexts, trees, drafts))
def test_more_memory_never_streams_or_copies_more(ram: int, vram: int, more_ram: int, more_vram: int, demand: Demand) -> None:
    less, more = placed(demand, ram, vram), placed(demand, ram + more_ram, vram + more_vram)
    if less:
        assert more is not None
        assert (more.streamed <= less.streamed, more.copied <= less.copied) == (True, True)


def test_a_70b_shape_on_a_machine_of_24_and_16_gib() -> None:
    found = placed(Demand(8192, 2200), 16 * GIB, 24 * GIB)
    assert found is not None
    assert 25 <= found.on_device <= 50, "half of 36 GB, beside the KV cache and a pass's buffers"
    assert found.on_device + found.pinned < 80
    assert found.streamed < found.copied < 36e9


def test_all_of_it_stays_where_there_is_room() -> None:
    found = placed(Demand(8192, 2200), 8 * GIB, 80 * GIB)
    assert found is not None
    assert (found.on_device, found.device_slots, found.pinned, found.slots, found.copied, found.streamed) == (80, 0, 0, 0, 0, 0)


def test_the_bounds_of_temporaries_are_those_of_the_code_that_makes_them() -> None:
    from specexec.engines import product
    from specexec.kv import attention

    assert (attention.SCORES, product.DEQUANTISED) == (SCORES, DEQUANTISED)


@pytest.mark.parametrize("window", [None, 4096])
def test_a_window_takes_masks_of_the_committed_rows(window: int | None) -> None:
    demand = Demand(8192, 2200)
    config = LLAMA_70B | {"sliding_window": window}
    extra = on_device(config, footprint(config, "nf4"), demand, 2, 0).work - shape(demand)[1].work
    assert (extra > 0) == (window is not None)
