"""What a caller adds to `generate`'s own arguments."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Number
from typing import Any

import torch
from torch import nn

from s2t_ext.config import S2TConfig
from s2t_ext.decoding.record import StepEvent
from s2t_ext.runs.numbers import integer, integers
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


def make_options(
    s2t: S2TConfig | Mapping[str, Any] | None,
    selector: Selector | None,
    teacher: Any,
    seed: int | Sequence[int] | None,
    on_step: Callable[[StepEvent], None] | None,
) -> DecodingOptions:
    """The options of one run as a caller gave them; None for `s2t` takes the selector's own.

    Raises:
        ValueError: if one of them is of another kind.
    """
    if selector is not None and not isinstance(selector, Selector):
        raise ValueError(
            "generate: selector must be a Selector (Selector.from_pretrained(path, model)), got "
            f"{selector!r}"
        )
    if isinstance(teacher, nn.Module) or isinstance(teacher, str):
        raise ValueError(
            "generate: teacher must be a Teacher (Teacher.from_model(model), "
            f"Teacher.from_server(url, name)), got {type(teacher).__name__}"
        )
    if s2t is None:
        own = None if selector is None else selector.decoding
        s2t = S2TConfig() if own is None else own
    if isinstance(s2t, Mapping):
        s2t = S2TConfig.from_dict(dict(s2t))
    if not isinstance(s2t, S2TConfig):
        raise ValueError(f"generate: s2t must be an S2TConfig, got {s2t!r}")
    return DecodingOptions(s2t, selector, teacher, seed, on_step)


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
