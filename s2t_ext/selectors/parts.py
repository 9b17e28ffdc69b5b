"""The small parts of a selector."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch


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
