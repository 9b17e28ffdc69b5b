"""What a caller adds to `generate`'s own arguments."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from numbers import Number
from typing import Any

import torch

from s2t_ext.config import S2TConfig
from s2t_ext.decoding.record import StepEvent
from s2t_ext.runs.numbers import integer, integers
from s2t_ext.selectors.selector import Selector
from s2t_ext.teachers.base import Teacher


@dataclass
class DecodingOptions:
    """The options of one run, resolved by the way in (`s2t_ext.generation`).

    Attributes:
        config: The S2TConfig.
        selector: Where the configuration needs one.
        teacher: Where the configuration needs one.
        seed: Key of the random numbers: one integer (row b uses seed + b), one per row, or None
            (drawn from torch's generator).
        on_step: Called with a `StepEvent` after every step.
    """

    config: S2TConfig
    selector: Selector | None = None
    teacher: Teacher | None = None
    seed: int | Sequence[int] | None = None
    on_step: Callable[[StepEvent], None] | None = None


def row_seeds(seed: Any, batch: int, device: torch.device) -> torch.Tensor:
    """One seed per row, int64 [batch]. Seeds of 64 bits keep all of them, signed or not.

    Args:
        seed: None (drawn from torch's generator), an integer (row b uses seed + b), or one integer
            per row.
        batch: Number of rows.
        device: Where the seeds go.

    Raises:
        ValueError: if the seed is no such number, or a sequence does not have one entry per row.
    """
    if seed is None:
        return torch.randint(2**62, (batch,), dtype=torch.int64).to(device)
    one = isinstance(seed, (Number, str)) or getattr(seed, "ndim", None) == 0
    if one:
        first = integer("generate", "seed", seed)
        seeds = [first + row for row in range(batch)]
    else:
        seeds = integers("generate", "seed", seed)
        if len(seeds) != batch:
            raise ValueError(
                f"generate: seed must be an integer or have one entry per row ({batch}), "
                f"got {len(seeds)} entries"
            )
    for value in [first] if one else seeds:
        if not -(2**63) <= value < 2**64:
            raise ValueError(f"generate: seed must have at most 64 bits, got {value}")
    return torch.tensor([_as_int64(value) for value in seeds], dtype=torch.int64, device=device)


def _as_int64(value: int) -> int:
    """The number with the same 64 bits that fits an int64."""
    return (value + 2**63) % 2**64 - 2**63
