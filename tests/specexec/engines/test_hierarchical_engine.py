"""The promise of KernelEngine over quantised keys and values: plain decoding's bits, wherever groups end and trees fork."""

from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from specexec.kernels.hierarchical import GROUP
from specexec.kv.hierarchical import HierarchicalCache
from tests.kernels import SETS, threads, using
from tests.models import chain, read
from tests.quantised import Plain, engine
from tests.specexec.engines.test_kernel_engine import (
    Exact,
    Script,
    activations,
    below,
    counts,
    far_turns,
    folder,
    large_trees,
    text,
)
from tests.specexec.engines.test_parity import Turn

pytestmark = pytest.mark.usefixtures("compiled")
formats = st.sampled_from(["int8", "int4"])
lengths = st.one_of(st.integers(0, 300), st.integers(118, 130), st.integers(246, 262))
families = pytest.mark.parametrize("family", ["llama", "qwen2-mixed", "mistral"])


@cache
def plain(family: str, bits: int, kv: str) -> Plain:
    return Plain(engine(folder(family), "int8", bits, kv=kv))


@families
@settings(max_examples=12)
@given(kv=formats, bits=activations, count=counts, most=st.sampled_from([64, 2048]), length=lengths, tree=large_trees,
       script=st.lists(far_turns, max_size=4))
def test_any_tree_below_any_text(
    family: str, kv: str, bits: int, count: int, most: int, length: int, tree: object, script: Script
) -> None:
    target = engine(folder(family), "int8", bits, largest_tree=most, kv=kv)
    play = Exact(target, plain(family, bits, kv), text(length), tree, count)  # type: ignore[arg-type]
    for turn in script:
        play.take(turn)


@pytest.mark.parametrize("isa", SETS)
@pytest.mark.parametrize("kv", ["int8", "int4"])
def test_every_instruction_set_keeps_the_promise(isa: str, kv: str) -> None:
    with using(isa):
        wanted, target = (engine(folder("qwen2-mixed"), "int8", 16, kv=kv) for _ in range(2))
        play = Exact(target, Plain(wanted), text(120), below(60, 3, 1), 2)
        play.take(Turn("descend", 3, 5, [], [(0, 1), (1, 2), (1, 3)], 4))
        play.take(Turn("accept", 7, 3, text(30), [(0, 5), (0, 6), (2, 7)], 9))


@pytest.mark.parametrize("kv", ["int8", "int4"])
def test_texts_longer_than_a_chunk_of_attention(kv: str) -> None:
    """Prefilled in pieces of any size, and cut: the same bits."""
    tokens, long = text(4250), folder("llama", 8192)
    found = []
    for most, count in ((2048, 2), (300, 1)):
        target = engine(long, "int8", 8, largest_tree=most, kv=kv)
        with threads(count):
            target.sync(tokens[:-1])
            found.append(read(target, chain(*tokens[-1:]))[-1])
            for cut in (4240, 4100, 3000):
                target.sync(tokens[:cut])
                read(target, chain(7, 8))
            target.sync(tokens[:-1])
            found.append(read(target, chain(*tokens[-1:]))[-1])
    assert all(torch.equal(found[0], other) for other in found[1:])


def test_few_rows_are_taken_back_for_nothing_and_more_by_whole_groups() -> None:
    target = engine(folder("llama"), "int8", 8, kv="int8")
    target.sync(text(600))
    read(target, chain(1))
    cache = target.cache
    assert isinstance(cache, HierarchicalCache)
    target.settle()
    assert (cache.length, cache.start, cache.made) == (600, 3 * GROUP, 4)
    assert cache.truncate(500) == 500
    assert cache.truncate(384) == 384
    assert cache.truncate(383) == 256
    assert (cache.held, cache.made) == (0, 2)
    assert cache.truncate(1) == 0


def test_it_takes_what_it_says() -> None:
    target = engine(folder("llama"), "int8", 8, kv="int8")
    target.sync(text(1000))
    read(target, chain(1))
    cache = target.cache
    assert isinstance(cache, HierarchicalCache)
    assert cache.nbytes == sum(one.nbytes for one in cache.groups) + sum(k.nbytes + v.nbytes for k, v in cache.buffers())
