"""The small parts of a selector."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch

from s2t_ext.ops.kernel_dtypes import floating
from s2t_ext.runs.numbers import finite, integers


@dataclass(frozen=True)
class TriggerHead:
    """A learned predictor of "the teacher would disagree here": sigmoid(weight . hidden + bias).

    Attributes:
        weight: fp32 [D].
        bias: a scalar.
    """

    weight: torch.Tensor
    bias: float


@dataclass(frozen=True)
class Calibration:
    """A trigger's threshold and where it came from (see `s2t_ext.calibrate`).

    Attributes:
        threshold: In the unit of the trigger's statistic.
        rate: The share of steps it fires at on the calibration prompts.
        tokens: Number of steps the quantile was taken over; 0 if unknown.
        prompts_sha256: Hash of the prompts, "" if unknown.
    """

    threshold: float
    rate: float
    tokens: int = 0
    prompts_sha256: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


def bin_vector(name: str, value: Any, bins: int) -> torch.Tensor:
    """fp32 [bins] for the argument `name` of `Selector`; raises ValueError for anything else."""
    vector = floating("Selector", name, value, rule=f"have shape [{bins}]").float().contiguous()
    if tuple(vector.shape) != (bins,):
        raise ValueError(f"Selector: {name} must have shape [{bins}], got {list(vector.shape)}")
    return vector


def reserved(ids: Any) -> tuple[int, ...]:
    """Vocabulary ids, ascending and once each; raises ValueError for anything else."""
    found = integers("Selector", "reserved_ids", ids)
    if len(found) > 64:
        raise ValueError(f"Selector: reserved_ids must hold at most 64 ids, got {len(found)}")
    if any(i < 0 for i in found):
        raise ValueError(f"Selector: reserved_ids must be at least 0, got {ids}")
    return tuple(sorted(set(found)))


def trigger_head_of(value: Any, hidden_size: int) -> TriggerHead | None:
    """A `TriggerHead` from one, or from (weight [hidden_size], bias); raises ValueError for
    anything else.
    """
    if value is None:
        return None
    weight, bias = (value.weight, value.bias) if isinstance(value, TriggerHead) else value
    weight = floating("Selector", "trigger_head", weight).float().reshape(-1)
    if weight.numel() != hidden_size:
        raise ValueError(
            f"Selector: trigger_head must have {hidden_size} weights, got {weight.numel()}"
        )
    return TriggerHead(weight, finite("Selector", "trigger_head", bias))
