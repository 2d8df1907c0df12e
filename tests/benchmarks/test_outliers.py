from pathlib import Path

import pytest
import torch

from offload.folder import Folder
from tests.benchmarks.outliers import FACTORS, PARTS, inject, save
from tests.models import FAMILIES, chain, engine, read, saved

TREE = chain(3, 14, 15, 9, 26, 5)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_outliers_leave_the_function_as_it_is(family: str, tied: bool, tmp_path: Path) -> None:
    plain = saved(family, tied)
    made = save(Folder(plain), tmp_path / "made", seed=1)
    before, after = (read(engine(folder), TREE) for folder in (plain, made.path))
    assert (after - before).abs().max() < 1e-4 * before.abs().max()


@pytest.fixture
def tensors() -> dict[str, torch.Tensor]:
    return dict(Folder(saved("llama")).tensors())


@pytest.mark.parametrize("part", PARTS)
def test_each_part_grows_by_the_factors(part: str, tensors: dict[str, torch.Tensor]) -> None:
    made = inject(tensors, layers=3, seed=0, parts=(part,))
    grown = {name: float((made[name] / tensors[name]).max()) for name in tensors}
    wanted = {"attention": "input_layernorm", "ffn": "post_attention_layernorm", "head": "model.norm", "up": "up_proj"}[part]
    for name, factor in grown.items():
        assert (FACTORS[0] <= factor <= FACTORS[1]) == (wanted in name), name


def test_the_seed_decides(tensors: dict[str, torch.Tensor]) -> None:
    first, again, other = (inject(tensors, layers=3, seed=seed) for seed in (0, 0, 1))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)
