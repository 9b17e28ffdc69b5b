"""propose_candidates beside torch: the composition of operators, and logsumexp alone.

    pytest bench/bench_propose_candidates.py -s

The vocabulary is that of Qwen2.5, k = 8, support 64. Small batches take turns between several
inputs: a decode loop never sees the same logits twice, and a processor that does learns branches.
"""

import itertools

import pytest
import torch

from s2t_ext import ops, reference
from s2t_ext.testing import assert_close, assert_same_bits

VOCAB, K, SUPPORT = 151_936, 8, 64
INPUTS = 16  # rows in turn, at least


def composition(logits):
    """What a decode loop would write; half precision is widened once."""
    x = logits.float()
    best = x.topk(SUPPORT)
    p = torch.softmax(best.values, dim=-1)
    support_entropy = -(p * p.log()).sum(-1)
    logsumexp = torch.logsumexp(x, dim=-1)
    full_entropy = logsumexp - torch.linalg.vecdot(torch.softmax(x, dim=-1), x)
    return best.indices[:, :K], best.values[:, :K], logsumexp, support_entropy, full_entropy


def check(logits):
    ours, theirs = ops.propose_candidates(logits, K, SUPPORT), composition(logits)
    expected = reference.propose_candidates(logits, K, SUPPORT)
    assert_same_bits(ours.ids, expected.ids)
    assert_same_bits(ours.logits, expected.logits)
    assert_same_bits(ours.logits, theirs[1])  # ids of equal logits are torch's own choice
    for actual, exact, composed in zip(ours[2:5], expected[2:5], theirs[2:5], strict=True):
        assert_close(actual, exact)
        torch.testing.assert_close(composed, exact, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("batch", [1, 8, 64])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_propose_candidates(compare, num_threads, batch, dtype):
    generator = torch.Generator().manual_seed(0)
    inputs = [
        (torch.randn(batch, VOCAB, generator=generator) * 3).to(dtype)
        for _ in range(max(1, INPUTS // batch))
    ]
    check(inputs[0])

    def in_turn(function):
        turns = itertools.cycle(inputs)
        return lambda: function(next(turns))

    compare(
        {"batch": batch, "vocab": VOCAB, "dtype": str(dtype)[6:], "threads": num_threads},
        {
            "torch": in_turn(composition),
            "torch.logsumexp": in_turn(lambda x: torch.logsumexp(x, dim=-1)),
            "s2t_ext": in_turn(lambda x: ops.propose_candidates(x, K, SUPPORT)),
        },
        ours="s2t_ext",
    )
