"""random_uniform beside Philox composed from torch operators.

pytest bench/bench_random_uniform.py -s
"""

import pytest
import torch

from s2t_ext import ops, reference
from s2t_ext.testing import assert_same_bits

PURPOSE = 16


@pytest.mark.parametrize("batch", [1, 64, 1024])
def test_random_uniform(compare, batch):
    seed, position = torch.arange(batch) * 2**33, torch.full((batch,), 500)
    expected = reference.random_uniform(seed, position, PURPOSE)
    assert_same_bits(ops.random_uniform(seed, position, PURPOSE), expected)
    compare(
        {"batch": batch},
        {
            "torch": lambda: reference.random_uniform(seed, position, PURPOSE),
            "s2t_ext": lambda: ops.random_uniform(seed, position, PURPOSE),
        },
        ours="s2t_ext",
    )
