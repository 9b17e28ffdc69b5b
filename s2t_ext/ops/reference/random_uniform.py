"""Uniform random numbers: one per row."""

import torch
from torch import Tensor

from s2t_ext.ops.reference import _common as common
from s2t_ext.ops.reference.philox import uniform24

_OP = "random_uniform"


def random_uniform(seed: Tensor, position: Tensor, purpose: int) -> Tensor:
    """See `s2t_ext.ops.random_uniform`."""
    common.require_rank(_OP, "seed", seed, 1, "[batch]")
    common.require_dtype(_OP, "seed", seed, (torch.int64,))
    common.require_dtype(_OP, "position", position, (torch.int64,))
    common.require_shape(_OP, "position", position, seed.shape, "[batch]")
    common.require_device(_OP, "position", position, seed, "seed")
    largest = 2**32 - 1
    common.require(0 <= purpose <= largest, _OP, "purpose", f"be in [0, {largest}]", purpose)
    return uniform24(seed, position, purpose).float()
