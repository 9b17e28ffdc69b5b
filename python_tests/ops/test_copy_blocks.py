"""copy_blocks: exactly the blocks asked for are copied, whatever the layout of the caches."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from s2t_ext import ops, reference
from s2t_ext.testing import assert_same_bits, threads


def numbered(shape, dtype=torch.float32, seed=0):
    """Random bit patterns (NaN of the float types included): copies must keep them."""
    generator = torch.Generator().manual_seed(seed)
    data = torch.randint(0, 256, (*shape, dtype.itemsize), dtype=torch.uint8, generator=generator)
    return data.view(dtype)[..., 0]


def bits(tensor):
    return tensor.contiguous().view(torch.uint8)


def check(caches, source, target):
    """The caches after the copy are the expected ones, computed block by block."""
    expected, by_reference = ([cache.clone() for cache in caches] for _ in range(2))
    for cache in expected:
        for read, written in zip(source, target, strict=True):
            cache[written] = cache[read].clone()
    pairs = [torch.tensor(ids, dtype=torch.int64) for ids in (source, target)]
    reference.copy_blocks(by_reference, *pairs)
    ops.copy_blocks(caches, *pairs)
    for layer, (a, b, c) in enumerate(zip(caches, expected, by_reference, strict=True)):
        assert torch.equal(bits(a), bits(b)), f"layer {layer}"
        assert torch.equal(bits(c), bits(b)), f"reference, layer {layer}"


@pytest.mark.parametrize(
    "dtype",
    [torch.float32, torch.bfloat16, torch.float16, torch.float64, torch.uint8, torch.float8_e5m2],
    ids=str,
)
def test_copies_any_element_type(dtype):
    check([numbered((6, 2, 4, 8), dtype, seed) for seed in range(3)], [0, 0, 5], [1, 4, 2])


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_copies_exactly_the_blocks(data):
    draw = data.draw
    blocks, layers = draw(st.integers(1, 12)), draw(st.integers(0, 4))
    sizes = st.integers(0, 9)
    caches = [
        numbered((blocks + draw(st.integers(0, 3)), draw(sizes), draw(sizes)), seed=seed)
        for seed in range(layers)
    ]
    order = draw(st.permutations(range(blocks)))
    cut = draw(st.integers(0, blocks - 1))
    target, readable = order[:cut], order[cut:]
    source = [draw(st.sampled_from([*readable, block])) for block in target]
    check(caches, source, target)


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (0, 2, 1, 3), (0, 3, 2, 1)], ids=str)
def test_copies_blocks_laid_out_in_any_order(order):
    """Tokens before heads or after them: a block is the same run of memory."""
    shape = (7, 2, 16, 8)
    back = [order.index(i) for i in range(4)]
    check([numbered([shape[i] for i in order]).permute(back)], [0, 6], [3, 2])


def test_copies_one_layer_where_a_block_holds_all_layers():
    whole = numbered((6, 3, 2, 4, 8))
    expected = whole.clone()
    expected[4, 1] = expected[2, 1]
    ops.copy_blocks([whole[:, 1]], torch.tensor([2]), torch.tensor([4]))
    assert_same_bits(bits(whole), bits(expected))


@pytest.mark.parametrize("count", [1, 2, 3])
def test_many_layers_on_many_threads(count):
    with threads(count):
        caches = [numbered((40, 2, 16, 128), torch.bfloat16, seed) for seed in range(28)]
        check(caches, [3] * 8 + [5] * 8, list(range(20, 36)))


def test_no_pairs_and_no_caches_are_no_errors():
    none = torch.empty(0, dtype=torch.int64)
    ops.copy_blocks([numbered((3, 4))], none, none)
    ops.copy_blocks([], torch.tensor([99]), torch.tensor([98]))
    ops.copy_blocks([torch.empty(3, 0, 4)], torch.tensor([0]), torch.tensor([1]))


def test_no_cache_is_written_when_a_pair_is_bad():
    caches = [numbered((4, 8)), numbered((3, 8), seed=1)]
    before = [cache.clone() for cache in caches]
    with pytest.raises(RuntimeError, match=r"copy_blocks: target must be in \[0, 3\), got 3"):
        ops.copy_blocks(caches, torch.tensor([0, 1]), torch.tensor([2, 3]))
    for cache, unchanged in zip(caches, before, strict=True):
        assert_same_bits(bits(cache), bits(unchanged))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.uint8], ids=str)
def test_cuda_copies_what_the_cpu_copies(dtype, cuda):
    here = [numbered((9, 2, size), dtype, size) for size in (1, 3, 7, 64, 3000)]
    there = [cache.to(cuda) for cache in here]
    source, target = torch.tensor([0, 3, 4]), torch.tensor([8, 7, 4])
    ops.copy_blocks(here, source, target)
    ops.copy_blocks(there, source.to(cuda), target.to(cuda))
    for actual, expected in zip(there, here, strict=True):
        assert_same_bits(bits(actual), bits(expected))
