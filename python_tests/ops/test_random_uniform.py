"""random_uniform: the reference's numbers, their distribution, and what they depend on."""

import pytest
import torch

from s2t_ext import ops, reference
from s2t_ext.testing import assert_same_bits, same_everywhere

COUNT = 20_000


def rows(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    limits = torch.iinfo(torch.int64)
    seed = torch.randint(limits.min, limits.max, (count,), generator=generator)
    return seed, torch.randint(0, 2**40, (count,), generator=generator)


@pytest.mark.parametrize("purpose", [0, 16, 2**32 - 1])
@pytest.mark.parametrize("count", [0, 1, 1000])
def test_equals_the_reference(count, purpose):
    seed, position = rows(count)
    actual = same_everywhere(lambda: ops.random_uniform(seed, position, purpose))
    assert_same_bits(actual, reference.random_uniform(seed, position, purpose))


def test_is_uniform_and_changes_with_each_argument():
    seed, position = torch.arange(COUNT), torch.full((COUNT,), 7)
    drawn = ops.random_uniform(seed, position, 16)
    assert ((drawn >= 0) & (drawn < 1)).all()
    counts = torch.histc(drawn, bins=20, min=0.0, max=1.0)
    chi_square = ((counts - COUNT / 20) ** 2 / (COUNT / 20)).sum()
    assert chi_square < 43.8  # 19 degrees of freedom: 0.001 would fail if seeds were drawn anew
    for other in ((seed + COUNT, position, 16), (seed, position + 1, 16), (seed, position, 17)):
        assert (ops.random_uniform(*other) == drawn).sum() < 10


def test_does_not_depend_on_the_batch_or_on_strides():
    seed, position = rows(500)
    together = ops.random_uniform(seed, position, 16)
    order = torch.randperm(500)
    assert_same_bits(ops.random_uniform(seed[order], position[order], 16), together[order])
    spread = seed.repeat_interleave(2)[::2], position.repeat_interleave(3)[::3]
    assert_same_bits(ops.random_uniform(*spread, 16), together)


def test_on_cuda_it_gives_the_cpu_bits(cuda):
    seed, position = rows(1000)
    actual = ops.random_uniform(seed.to(cuda), position.to(cuda), 16)
    assert_same_bits(actual.cpu(), ops.random_uniform(seed, position, 16))
