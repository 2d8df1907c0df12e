"""The kernels under the address and undefined-behaviour sanitizers, for a few seconds."""

import pytest

from tests.fuzz.__main__ import run, why_not
from tests.kernels import SETS, need

SOON = "avx2" if "avx2" in SETS else SETS[-1]  # the widest set takes a minute to compile


@pytest.fixture(scope="module", autouse=True)
def compiler() -> None:
    need()
    if reason := why_not():
        pytest.skip(reason)


def test_random_calls_stay_within_their_buffers() -> None:
    ran = run(SOON, 4, seed=1, quick=True)
    assert ran.returncode == 0, ran.stderr
    assert int(ran.stdout.split()[0]) > 20


@pytest.mark.slow
@pytest.mark.parametrize("isa", SETS)
def test_so_they_do_with_every_instruction_set(isa: str) -> None:
    ran = run(isa, 60, seed=10**6)
    assert ran.returncode == 0, ran.stderr
