"""Fixtures of the compiled kernels, and of threads."""

from collections.abc import Iterator

import pytest
import torch

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


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Many small passes are faster so."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
