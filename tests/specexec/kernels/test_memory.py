"""Large buffers: what is put into them is found there."""

import torch

from specexec.kernels import memory


def test_tensors_lie_together_as_they_were() -> None:
    given = {"codes": torch.randint(0, 256, (3, 5, 7), dtype=torch.uint8), "none": torch.empty(0, 4),
             "scales": torch.randn(70_001).half(), "norm": torch.randn(2**20)}
    made = memory.together(given)
    assert list(made) == list(given)
    for name, tensor in given.items():
        assert torch.equal(made[name], tensor)
        assert made[name].dtype == tensor.dtype
        assert made[name].is_contiguous()
        assert made[name].data_ptr() % memory.LINE == 0
    assert len({tensor.untyped_storage().data_ptr() for tensor in made.values()}) == 1
