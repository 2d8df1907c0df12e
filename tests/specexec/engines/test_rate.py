"""Rates of real products, of each format and layout, and the names they are kept under."""

import time
from ctypes import c_int32
from itertools import product

import pytest
import torch

from specexec.engines import attention_rate, layer_rate, rate
from specexec.kernels import attention, linear
from specexec.kernels.table import Cache
from tests.kernels import need, threads

SMALL = {"rows": 64, "columns": 128, "weights": 2**15, "seconds": 0.0}


@pytest.mark.parametrize(("kind", "layout"), [("nf4", "rowmajor"), ("int8", "rowmajor"), ("fp32", None), ("bf16", None)])
def test_torch_multiplies_what_no_kernel_does(kind: str, layout: str | None) -> None:
    found = rate.rates(kind, layout, 16, (1, 32), **SMALL)
    assert list(found) == [1, 32]
    assert all(of > 0 for of in found.values())


@pytest.mark.parametrize("kind", ["nf4", "int8"])
@pytest.mark.parametrize("bits", [8, 16])
def test_kernels_multiply_their_own_layout(kind: str, bits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    need()
    seen: list[tuple[int, int]] = []
    real = linear.linear
    monkeypatch.setattr(linear, "linear", lambda matrices, x: seen.append((x.n, x.bits)) or real(matrices, x))
    assert rate.rates(kind, "tile16", bits, (8,), **SMALL)[8] > 0
    assert set(seen) == {(8, bits)}
    assert len(seen) == 1 + rate.CALLS


def test_a_rate_is_weights_over_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rate, "median", lambda call, seconds: 0.5)
    assert rate.rates("fp32", None, 16, (1, 8), **SMALL) == {1: 2 * 64 * 128, 8: 2 * 64 * 128}


def test_no_matrix_is_met_again_before_all_others_were() -> None:
    made = rate._copies("nf4", "rowmajor", 64, 128, 2**15)
    assert sum(matrix.nbytes for matrix in made) >= 2**15
    assert len({matrix.codes.data_ptr() for matrix in made}) == len(made) > 1


@pytest.mark.parametrize("bits", [16, 8, 4])
def test_attention_is_timed_over_every_format(bits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    need()
    read: list[tuple[int, int]] = []  # groups, and rows of the cache's own

    def seen(q: torch.Tensor, cache: Cache, committed: int, *others: torch.Tensor) -> None:
        read.append((cache.quantised.contents.groups if cache.quantised else 0, committed))

    monkeypatch.setattr(attention, "attend", seen)
    monkeypatch.setattr(attention_rate, "median", lambda call, seconds: call() or 0.5)
    found = attention_rate.rates("tile16", (1, 8), rows=256, seconds=0.0, bits=bits, together=2**22)
    assert found == dict.fromkeys((1, 8), 2 * 2 * 2 * 256 * attention_rate.KV_HEADS * attention_rate.DIM)
    assert read == [(0, 256) if bits == 16 else (2, 0)] * 2
    assert len({attention_rate.name("tile16", *of) for of in product((16, 8, 4), (None, 128))}) == 6


@pytest.mark.parametrize("bits", [16, 4])
def test_a_view_is_timed_over_other_rows_each_time(bits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    need()
    read: list[list[list[int]]] = []  # tiles of each head

    def seen(q: torch.Tensor, cache: Cache, committed: int, *others: torch.Tensor) -> None:
        assert (committed, cache.position) == (0, 512)
        if bits == 16:
            of = cache.gathered.contents
            eights = (c_int32 * (of.blocks * 8 * cache.kv_heads)).from_address(of.eights)[:]
            assert [eight + 1 for eight in eights[::2]] == eights[1::2]
            tiles = [eight // 2 for eight in eights[::2]]
        else:
            of = cache.quantised.contents
            tiles = (c_int32 * (of.chosen * cache.kv_heads)).from_address(of.tiles)[:]
        read.append([tiles[at : at + 8] for at in range(0, len(tiles), 8)])

    monkeypatch.setattr(attention, "attend", seen)
    monkeypatch.setattr(attention_rate, "median", lambda call, seconds: [call() for _ in range(4)] and 0.5)
    found = attention_rate.rates("tile16", (1,), rows=512, seconds=0.0, bits=bits, together=1, chosen=128)
    assert found == {1: 2 * 2 * 2 * 128 * attention_rate.KV_HEADS * attention_rate.DIM}
    for head in range(attention_rate.KV_HEADS):
        assert all(choice[head] == sorted(choice[head]) for choice in read)
        assert sorted(tile for choice in read for tile in choice[head]) == list(range(512 // 16))


def test_whatever_changes_a_rate_changes_its_name() -> None:
    need()
    names = {rate.name(kind, layout, bits) for kind in ("nf4", "int8") for layout in ("tile16", "rowmajor") for bits in (8, 16)}
    assert len(names) == 6, "the reference rounds no activations"
    with threads(torch.get_num_threads() + 1):
        assert rate.name("nf4", "tile16", 8) not in names


def test_a_layer_takes_time_besides_what_is_read_before_it() -> None:
    need()
    other = torch.ones(2**24, dtype=torch.int64)
    began = time.perf_counter()
    other.sum()
    assert 0 < layer_rate.seconds(8, other.nbytes) < (time.perf_counter() - began) / 2
    assert layer_rate.name(8) != layer_rate.name(16)
