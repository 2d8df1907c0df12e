"""Groups as torch and Triton read them, and Triton's kernels held against plain torch: on a CUDA device, else interpreted."""

import os
import subprocess
import sys
from importlib.util import find_spec

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from specexec.kernels import hierarchical, row_groups
from specexec.kernels.hierarchical import GROUP
from specexec.kernels.row_groups import RowGroups
from specexec.kv.attention import Partial
from tests.kernels import normal
from tests.specexec.kernels.test_hierarchical import wide

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
LOST = {torch.float32: 1e-4, torch.float16: 2.0**-9, torch.bfloat16: 2.0**-6}  # of the largest value, by rounding to the dtype
triton = pytest.mark.skipif(not find_spec("triton"), reason="Triton is not installed")


def made(k: torch.Tensor, v: torch.Tensor, bits: int = 8, capacity: int = 0) -> RowGroups:
    groups = RowGroups.empty(len(k), capacity or k.shape[1] // GROUP, k.shape[2], bits, DEVICE)
    groups.put(0, k.to(DEVICE), v.to(DEVICE))
    return groups


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("dim", [8, 64, 80, 128])
def test_what_is_read_is_what_the_reference_makes(dim: int, bits: int) -> None:
    """Put in two pieces, into a cache that grew between them; in order, or picked by row."""
    k, v = wide(1, 2, 3 * GROUP, dim), wide(7, 2, 3 * GROUP, dim)
    groups = made(k[:, :GROUP], v[:, :GROUP]).grown(5)
    groups.put(1, k[:, GROUP:].to(DEVICE), v[:, GROUP:].to(DEVICE))
    for found, wanted in zip(groups.decoded(0, 3, bits), hierarchical.rounded(k, v, bits), strict=True):
        assert torch.allclose(found.cpu(), wanted, rtol=1e-6, atol=1e-6 * float(wanted.abs().max()))
    rows = torch.tensor([[0, 5, 127, 128, 300], [383, 1, 1, 200, 90]])
    upper = hierarchical.rounded(k, v, 4)
    for found, wanted in zip(groups.picked(rows.to(DEVICE)), upper, strict=True):
        wanted = wanted[torch.arange(2)[:, None], rows]
        assert torch.allclose(found.cpu(), wanted, rtol=1e-6, atol=1e-6 * float(wanted.abs().max()))


def test_the_bytes_are_half_of_bf16_s_and_the_scales() -> None:
    for bits, share in ((8, (1 + 4 / GROUP) / 2), (4, (0.5 + 4 / GROUP) / 2)):
        assert RowGroups.empty(8, 4, 128, bits, DEVICE).nbytes == share * 2 * 2 * 8 * 4 * GROUP * 128


class Case:
    """Queries over groups, and what float64 makes of them."""

    def __init__(self, heads: int, kv_heads: int, dim: int, count: int, n: int) -> None:
        self.k, self.v = (normal(kv_heads, count * GROUP, dim, seed=s) * normal(dim, seed=s + 9) + 2 for s in (1, 2))
        self.q = normal(heads, n, dim, seed=3) * dim**-0.5
        self.groups, self.count = made(self.k, self.v, capacity=count + 1), count

    def wanted(self, bits: int, first: torch.Tensor | None) -> Partial:
        k, v = (part.double() for part in hierarchical.rounded(self.k, self.v, bits))
        folded = self.q.double().view(len(k), -1, *self.q.shape[1:])
        scores = torch.einsum("hgnd,hrd->hgnr", folded, k)
        if first is not None:
            scores.masked_fill_(torch.arange(k.shape[1]) < first[:, None], -torch.inf)
        weights = scores.softmax(-1).nan_to_num(0.0)
        return Partial(torch.einsum("hgnr,hrd->hgnd", weights, v).flatten(0, 1), scores.logsumexp(-1).flatten(0, 1))

    def check(
        self, attend: object, bits: int, dtype: torch.dtype = torch.float32, first: torch.Tensor | None = None,
    ) -> None:
        of = first.to(DEVICE) if first is not None else None
        found = attend(self.q.to(DEVICE, dtype), self.groups, self.count, bits, of)  # type: ignore[operator]
        wanted, lost = self.wanted(bits, first), LOST[dtype]
        assert float((found.out.double().cpu() - wanted.out).abs().max()) <= lost * float(self.v.abs().max())
        near = torch.isclose(found.log_sum_exp.double().cpu(), wanted.log_sum_exp, atol=4 * lost, rtol=0)
        assert bool((near | (wanted.log_sum_exp == found.log_sum_exp.cpu())).all())


bits_of = st.sampled_from([4, 8])
shapes = st.sampled_from([(1, 1, 8), (4, 1, 64), (6, 2, 80), (3, 1, 96), (16, 2, 128)])


def limits(n: int, count: int, seed: int | None) -> torch.Tensor | None:
    """The first position each query sees; of some of them nothing at all."""
    if seed is None:
        return None
    return torch.randint(0, count * GROUP + 20, (n,), generator=torch.Generator().manual_seed(seed))


@settings(max_examples=30)
@given(bits=bits_of, shape=shapes, count=st.integers(1, 40), n=st.sampled_from([1, 3, 70]), seed=st.sampled_from([None, 1, 2]))
def test_plain_torch(bits: int, shape: tuple[int, int, int], count: int, n: int, seed: int | None) -> None:
    Case(*shape, count, n).check(row_groups.reference, bits, first=limits(n, count, seed))


@triton
@settings(max_examples=12, phases=[Phase.explicit, Phase.generate])  # a smaller example would take the interpreter minutes
@given(bits=bits_of, shape=shapes, count=st.integers(1, 6), n=st.sampled_from([1, 1, 5, 20]),
       seed=st.sampled_from([None, 1, 2]), dtype=st.sampled_from([torch.float32, torch.float16]))
def test_triton(
    bits: int, shape: tuple[int, int, int], count: int, n: int, seed: int | None, dtype: torch.dtype
) -> None:
    from specexec.kernels import hierarchical_triton

    Case(*shape, count, n).check(hierarchical_triton.attend, bits, dtype, limits(n, count, seed))


@triton
@pytest.mark.parametrize("bits", [4, 8])
def test_triton_with_as_many_queries_as_a_tree_has(bits: int) -> None:
    from specexec.kernels import hierarchical_triton

    Case(8, 2, 64, 2, 256).check(hierarchical_triton.attend, bits, torch.float16)


@triton
@pytest.mark.skipif(DEVICE.type != "cuda", reason="Triton's interpreter has no products in bf16")
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("n", [1, 64, 256])
def test_triton_in_bf16(bits: int, n: int) -> None:
    from specexec.kernels import hierarchical_triton

    Case(32, 8, 128, 70, n).check(hierarchical_triton.attend, bits, torch.bfloat16)


@triton
@pytest.mark.skipif(DEVICE.type != "cuda", reason="this machine has no CUDA device")
def test_cuda_takes_it_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_groups, "reference", None)
    Case(8, 2, 64, 3, 5).check(row_groups.attend, 8, torch.float16)


@triton
@settings(max_examples=10)
@given(splits=st.integers(1, 40), rows=st.integers(1, 5), dim=st.sampled_from([8, 80, 128]))
def test_parts_are_put_together(splits: int, rows: int, dim: int) -> None:
    """Some of them of rows that saw nothing there, or nowhere."""
    from specexec.kernels.splits_triton import joined

    parts, sums = normal(splits, rows, dim), 5 * normal(splits, rows, seed=1)
    nothing = normal(splits, rows, seed=2) > 0.5
    nothing[:, 0] = rows > 1
    parts[nothing], sums[nothing] = 0, -torch.inf
    out, total = joined(parts.to(DEVICE), sums.to(DEVICE))
    shares = sums.double().softmax(0).nan_to_num(0.0).unsqueeze(2)
    assert torch.allclose(out.double().cpu(), (parts * shares).sum(0), atol=1e-5)
    assert torch.allclose(total.double().cpu(), sums.double().logsumexp(0), atol=1e-5)


COMPILED = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from specexec.kernels import hierarchical_triton as kernels

of, bits, base = kernels.OPERANDS[kernels.torch.bfloat16]
fixed = dict(HALF=64, D=64, M=16, N=kernels.KEYS, OF=of, BITS=bits, BASE=base, BOTH=True, WINDOWED=True, GROUP=128,
             MIDDLE=8, SIXTEENTHS=16)
types = {"Q": "*bf16", "UPPER": "*u8", "LOWER": "*u8", "SCALES": "*fp16", "FIRST": "*i64", "PARTS": "*fp32", "SUMS": "*fp32"}
names = kernels._attend.arg_names
signature = {name: "constexpr" if name in fixed else types.get(name, "i32") for name in names}
source = ASTSource(kernels._attend, signature, {(names.index(name),): value for name, value in fixed.items()})
options = {"num_warps": kernels.WARPS, "num_stages": kernels.STAGES}
made = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)
assert made.metadata.shared < 100_000
assert ".bf16" in made.asm["ptx"]
"""


@triton
def test_it_compiles_for_a_device_that_is_not_here() -> None:
    """For compute capability 9.0, in bf16, with all that there is in it."""
    alone = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    ran = subprocess.run([sys.executable, "-c", COMPILED], env=alone, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr


def test_without_a_device_triton_is_interpreted_here() -> None:
    assert DEVICE.type == "cuda" or os.environ["TRITON_INTERPRET"] == "1"
