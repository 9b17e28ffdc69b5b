"""commit_candidates: exactly the winners' entries move, whatever the layout of the buffers."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from s2t_ext import ops, reference
from s2t_ext.testing import assert_same_bits, threads


def numbered(shape, dtype=torch.float32, seed=0):
    """Random bit patterns (NaN of the float types included): copies must keep them."""
    generator = torch.Generator().manual_seed(seed)
    width = dtype.itemsize
    data = torch.randint(0, 256, (*shape, width), dtype=torch.uint8, generator=generator)
    if dtype == torch.bool:
        return (data[..., 0] > 127).contiguous()
    return data.view(dtype)[..., 0]


def bits(tensor):
    return tensor.contiguous().view(torch.uint8)


def check(keys, values, slot, start, k):
    """The buffers after the commit are the expected ones, computed entry by entry."""
    expected = [[buffer.clone() for buffer in buffers] for buffers in (keys, values)]
    for buffers in expected:
        for buffer in buffers:
            for b, (s, t) in enumerate(zip(slot.tolist(), start.tolist(), strict=True)):
                if s > 0:
                    buffer[b, :, t] = buffer[b, :, t + s].clone()
    by_reference = [[buffer.clone() for buffer in buffers] for buffers in (keys, values)]
    reference.commit_candidates(*by_reference, slot, start, k)
    ops.commit_candidates(keys, values, slot, start, k)
    for actual, wanted, other in zip((keys, values), expected, by_reference, strict=True):
        for layer, (a, b, c) in enumerate(zip(actual, wanted, other, strict=True)):
            assert torch.equal(bits(a), bits(b)), f"layer {layer}"
            assert torch.equal(bits(c), bits(b)), f"reference, layer {layer}"


@pytest.mark.parametrize(
    "dtype",
    [torch.float32, torch.bfloat16, torch.float16, torch.float64, torch.int8, torch.float8_e4m3fn],
    ids=str,
)
def test_moves_any_element_type(dtype):
    keys = [numbered((3, 2, 20, 16), dtype, seed) for seed in range(2)]
    values = [numbered((3, 2, 20, 16), dtype, seed) for seed in range(2, 4)]
    check(keys, values, torch.tensor([3, 0, 7]), torch.tensor([12, 5, 0]), 8)


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_moves_exactly_the_winners(data):
    draw = data.draw
    batch, layers, k = draw(st.integers(0, 4)), draw(st.integers(0, 3)), draw(st.integers(1, 64))
    shapes = [
        (batch, draw(st.integers(1, 3)), k + draw(st.integers(0, 20)), draw(st.integers(1, 9)))
        for _ in range(2 * layers)
    ]
    buffers = [numbered(shape, torch.float32, seed) for seed, shape in enumerate(shapes)]
    shortest = min((shape[2] for shape in shapes), default=k)
    slot = [draw(st.integers(-3, k - 1)) for _ in range(batch)]
    start = [draw(st.integers(0, shortest - k)) for _ in range(batch)]
    slot, start = torch.tensor(slot, dtype=torch.int64), torch.tensor(start, dtype=torch.int64)
    check(buffers[:layers], buffers[layers:], slot, start, k)


def test_rows_that_stay_need_no_valid_start():
    keys, values = [numbered((3, 2, 10, 4))], [numbered((3, 2, 10, 4), seed=1)]
    check(keys, values, torch.tensor([0, -1, -(2**62)]), torch.tensor([99, -99, 2**62]), 8)


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (0, 2, 1, 3), (1, 0, 2, 3), (2, 1, 0, 3)], ids=str)
def test_writes_through_any_strides(order):
    """Buffers laid out in another order of dimensions, and slices of larger ones."""

    def laid_out(seed):
        shape = (2, 3, 12, 8)
        back = [order.index(i) for i in range(4)]
        return numbered([shape[i] for i in order], seed=seed).permute(back)

    check([laid_out(0)], [laid_out(1)], torch.tensor([2, 1]), torch.tensor([4, 9]), 3)
    whole = numbered((2, 3, 40, 10), seed=2)
    outside = whole.clone()
    window = whole[:, :, 5:20, 1:9]
    assert not window.is_contiguous()
    ops.commit_candidates([window], [window], torch.tensor([2, 0]), torch.tensor([1, 0]), 3)
    outside[0, :, 6, 1:9] = outside[0, :, 8, 1:9]
    assert torch.equal(bits(whole), bits(outside))


def test_one_row_of_a_larger_cache_can_be_committed_alone():
    cache = numbered((4, 2, 16, 8))
    expected = cache.clone()
    expected[2, :, 5] = expected[2, :, 7]
    row = [cache[2:3]]
    ops.commit_candidates(row, row, torch.tensor([2]), torch.tensor([5]), 4)
    assert torch.equal(bits(cache), bits(expected))


@pytest.mark.parametrize("count", [1, 2, 3])
def test_many_layers_on_many_threads(count):
    keys = [numbered((8, 8, 40, 64), torch.bfloat16, seed) for seed in range(28)]
    values = [buffer.clone() for buffer in keys]
    with threads(count):
        check(keys, values, torch.arange(8), torch.arange(8) * 4, 8)


def test_an_empty_batch_and_no_layers_are_no_errors():
    nothing = torch.empty(0, dtype=torch.int64)
    ops.commit_candidates([torch.empty(0, 2, 8, 4)], [torch.empty(0, 2, 8, 4)], nothing, nothing, 8)
    ops.commit_candidates([], [], torch.tensor([3]), torch.tensor([0]), 8)


def test_no_buffer_is_written_when_an_argument_is_bad():
    keys, values = [numbered((2, 2, 10, 4))], [numbered((2, 2, 10, 4), seed=1)]
    before = keys[0].clone(), values[0].clone()
    with pytest.raises(RuntimeError, match="start must be"):
        ops.commit_candidates(keys, values, torch.tensor([1, 1]), torch.tensor([0, 3]), 8)
    assert_same_bits(bits(keys[0]), bits(before[0]))
    assert_same_bits(bits(values[0]), bits(before[1]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int8], ids=str)
def test_cuda_moves_what_the_cpu_moves(dtype, cuda):
    # heads and sizes that leave every alignment to be met
    shapes = [(5, heads, 30 + heads, size) for heads, size in ((1, 64), (3, 7), (2, 128), (4, 20))]
    here = [numbered(shape, dtype, seed) for seed, shape in enumerate(shapes)]
    there = [buffer.to(cuda) for buffer in here]
    slot, start = torch.tensor([7, 0, -1, 1, 3]), torch.tensor([0, 5, 99, 23, 11])
    ops.commit_candidates(here[:2], here[2:], slot, start, 8)
    ops.commit_candidates(there[:2], there[2:], slot.to(cuda), start.to(cuda), 8)
    for actual, expected in zip(there, here, strict=True):
        assert_same_bits(bits(actual), bits(expected))
