"""What a caller adds to `generate`'s own arguments."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import torch

from s2t_ext.config import S2TConfig
from s2t_ext.decoding.record import StepEvent
from s2t_ext.selectors.selector import Selector


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
    teacher: Any = None
    seed: int | Sequence[int] | None = None
    on_step: Callable[[StepEvent], None] | None = None


def row_seeds(seed: int | Sequence[int] | None, batch: int, device: torch.device) -> torch.Tensor:
    """One seed per row, int64 [batch].

    Raises:
        ValueError: if a sequence does not have one entry per row.
    """
    if seed is None:
        return torch.randint(2**62, (batch,), dtype=torch.int64).to(device)
    if isinstance(seed, (int, Integral)):  # numpy integers are no int
        first = int(seed)
        return torch.arange(first, first + batch, dtype=torch.int64, device=device)
    if len(seed) != batch:
        raise ValueError(
            f"generate: seed must be an integer or have one entry per row ({batch}), "
            f"got {len(seed)} entries"
        )
    return torch.tensor(list(seed), dtype=torch.int64, device=device)
