"""commit_candidates beside torch: a copy per layer, and gathering the kept positions of the cache.

    pytest bench/bench_commit_candidates.py -s

The shape is that of Qwen2.5-0.5B in bfloat16: 24 layers, 2 key/value heads of size 64. The last
slot wins, so every implementation has to move.
"""

import pytest
import torch

from s2t_ext import ops
from s2t_ext.testing import assert_same_bits

LAYERS, HEADS, HEAD_SIZE, K = 24, 2, 64, 8


def cache(batch, length):
    generator = torch.Generator().manual_seed(0)
    shape = (batch, HEADS, length + K, HEAD_SIZE)
    return [torch.randn(shape, generator=generator).bfloat16() for _ in range(2 * LAYERS)]


@pytest.mark.parametrize("batch, length", [(1, 256), (1, 2048), (16, 256)])
def test_commit_candidates(compare, batch, length):
    slot, start = torch.full((batch,), K - 1), torch.full((batch,), length)
    ours, theirs = cache(batch, length), cache(batch, length)
    rows = torch.arange(batch)

    def committed():
        ops.commit_candidates(ours[:LAYERS], ours[LAYERS:], slot, start, K)

    def copied():  # rows may differ in slot and start, so the copy is indexed
        source = start + slot
        for buffer in theirs:
            buffer[rows, :, start] = buffer[rows, :, source]

    kept = torch.arange(length + 1).repeat(batch, 1)
    kept[:, -1] = length + K - 1
    index = kept[:, None, :, None].expand(batch, HEADS, length + 1, HEAD_SIZE)

    def gathered():  # what a cache without room for candidates does; O(prefix)
        return [buffer.gather(2, index) for buffer in theirs]

    from_gather = gathered()
    committed()
    copied()
    for a, b, c in zip(ours, theirs, from_gather, strict=True):
        assert_same_bits(a, b)
        assert_same_bits(a[:, :, : length + 1].contiguous(), c)
    compare(
        {"batch": batch, "length": length, "layers": LAYERS, "heads": HEADS, "k": K},
        {"torch": copied, "torch_gather": gathered, "s2t_ext": committed},
        ours="s2t_ext",
    )
