"""copy_blocks beside torch: two indexing operators per layer.

    pytest bench/bench_copy_blocks.py -s

The caches are those of Qwen2.5-0.5B in bfloat16, 24 layers with 2 key/value heads of size 64, in
blocks of 16 and 128 tokens (vLLM's on GPUs and CPUs). Every candidate gets its own copy of the last
block of its request.
"""

import pytest
import torch

from s2t_ext import ops
from s2t_ext.testing import assert_same_bits

LAYERS, HEADS, HEAD_SIZE, K, BLOCKS = 24, 2, 64, 8, 256


def caches(block_size):
    generator = torch.Generator().manual_seed(0)
    shape = (BLOCKS, HEADS, block_size, 2 * HEAD_SIZE)
    return [torch.randn(shape, generator=generator).bfloat16() for _ in range(LAYERS)]


@pytest.mark.parametrize("requests, block_size", [(1, 16), (8, 16), (1, 128), (8, 128)])
def test_copy_blocks(compare, requests, block_size):
    ours, theirs = caches(block_size), caches(block_size)
    source = (torch.arange(requests) * 3).repeat_interleave(K)
    target = torch.arange(requests * K) + BLOCKS - requests * K

    def copied():
        ops.copy_blocks(ours, source, target)

    def indexed():
        for cache in theirs:
            cache.index_copy_(0, target, cache.index_select(0, source))

    copied()
    indexed()
    for a, b in zip(ours, theirs, strict=True):
        assert_same_bits(a, b)
    compare(
        {"requests": requests, "block_size": block_size, "layers": LAYERS, "k": K},
        {"torch": indexed, "s2t_ext": copied},
        ours="s2t_ext",
    )
