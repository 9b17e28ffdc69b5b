"""Uniform random numbers: wrapper and fake."""

from typing import Any

import torch
from torch import Tensor

from s2t_ext.ops import reference
from s2t_ext.ops._bind import bind


def random_uniform(seed: Tensor, position: Tensor, purpose: int) -> Tensor:
    """One uniform number per row, a function of (seed, position, purpose) and of nothing else.

    Args:
        seed: int64 [batch].
        position: int64 [batch], e.g. the position of the token to be decided.
        purpose: keeps the draws of different decisions at one position apart, 0 to 2^32 - 1. 0 and
            1 are those of `sample_token` and of the choice among candidates; take one from 16 on.

    Returns:
        float32 [batch], multiples of 2^-24 in [0, 1).

    Raises:
        RuntimeError: wrong rank, shape, dtype or device; purpose out of range.

    Source: Philox4x32-10 of Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (SC 2011).
    """
    uniform: Tensor = _op(seed=seed, position=position, purpose=purpose)
    return uniform


def _fake(seed: Tensor, **_: Any) -> Tensor:
    return seed.new_empty(seed.shape[0], dtype=torch.float32)


_op = bind("random_uniform", reference.random_uniform, _fake)
