"""Fixtures of the compiled kernels."""

from collections.abc import Iterator

import pytest

from tests.kernels import SETS, need, using


@pytest.fixture(scope="module", params=SETS)
def every_set(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each instruction set in turn computes; its name."""
    with using(request.param):
        yield request.param


@pytest.fixture(scope="module")
def compiled() -> None:
    """The best instruction set computes."""
    need()
