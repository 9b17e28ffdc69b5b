"""The small parts of a selector."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import torch
import torch.nn.functional as F

from s2t_ext.ops.kernel_dtypes import floating
from s2t_ext.runs.numbers import finite, integers

#: The lowest log-probability that a trigger head tells from others, nats.
LOGPROB_FLOOR = -20.0


def trigger_logprobs(logprobs: torch.Tensor, count: int) -> torch.Tensor:
    """fp32 [N, count], what a trigger head reads of log-probabilities [N, at least count], best
    first: none below `LOGPROB_FLOOR`, which stands for unknown ones (NaN) too.
    """
    return logprobs[:, :count].float().nan_to_num(nan=LOGPROB_FLOOR).clamp(min=LOGPROB_FLOOR)


@dataclass(frozen=True)
class TriggerHead:
    """A learned predictor of "the teacher would disagree here": sigmoid(weight . hidden + bias +
    entropy_weight * entropy + logprob_weights . top log-probabilities).

    The margin of the best token over the second is a difference of the first two of these, so it
    needs no weight of its own.

    Attributes:
        weight: fp32 [D].
        bias: A scalar.
        entropy_weight: Of the entropy of the student's support, per nat.
        logprob_weights: fp32 [n], of the student's n best log-probabilities (`trigger_logprobs`),
            best first, per nat; None reads none.
    """

    weight: torch.Tensor
    bias: float
    entropy_weight: float = 0.0
    logprob_weights: torch.Tensor | None = None

    @property
    def num_logprobs(self) -> int:
        """How many log-probabilities it reads."""
        return 0 if self.logprob_weights is None else self.logprob_weights.numel()

    def probability(
        self,
        hidden: torch.Tensor,
        entropy: torch.Tensor,
        logprobs: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """What it says of N steps.

        Args:
            hidden: [N, D], the states that propose.
            entropy: [N], nats; NaN counts as 0.
            logprobs: [N, at least num_logprobs], of the student's best tokens, best first. None
                only for a head that reads none.

        Returns:
            fp32 [N].

        Raises:
            ValueError: without the log-probabilities that it reads.
        """
        known = entropy.float().nan_to_num(nan=0.0)
        logits = hidden.float() @ self.weight + self.bias + self.entropy_weight * known
        if self.logprob_weights is not None:
            count = self.num_logprobs
            given = 0 if logprobs is None else logprobs.shape[1]
            if logprobs is None or given < count:
                raise ValueError(
                    f"TriggerHead.probability: logprobs must have at least {count} columns, "
                    f"got {given}"
                )
            logits = logits + trigger_logprobs(logprobs, count) @ self.logprob_weights
        return torch.sigmoid(logits)

    def to(self, device: torch.device | str) -> TriggerHead:
        """The head on `device`."""
        weights = self.logprob_weights
        return replace(
            self,
            weight=self.weight.to(device),
            logprob_weights=None if weights is None else weights.to(device),
        )


@dataclass(frozen=True)
class Projection:
    """A hidden layer between the states and the score rows: GELU(weight . LayerNorm(h) + bias).

    Attributes:
        norm_weight: fp32 [D].
        norm_bias: fp32 [D].
        weight: fp32 [W, D].
        bias: fp32 [W].
    """

    norm_weight: torch.Tensor
    norm_bias: torch.Tensor
    weight: torch.Tensor
    bias: torch.Tensor

    def __call__(self, hidden: torch.Tensor) -> torch.Tensor:
        """fp32 [..., W] of hidden states [..., D]."""
        size = (self.norm_weight.shape[0],)
        normed = F.layer_norm(hidden.float(), size, self.norm_weight, self.norm_bias)
        return F.gelu(F.linear(normed, self.weight, self.bias))

    def tensors(self) -> dict[str, torch.Tensor]:
        """By the names they are stored under."""
        return {f"projection_{f.name}": getattr(self, f.name) for f in fields(self)}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, torch.Tensor]) -> Projection | None:
        """The inverse of `tensors`; None where there are none.

        Raises:
            ValueError: if some are there and others are missing.
        """
        found = {f.name: tensors.get(f"projection_{f.name}") for f in fields(cls)}
        if all(value is None for value in found.values()):
            return None
        missing = [name for name, value in found.items() if value is None]
        if missing:
            raise ValueError(
                f"load_selector: projection must be whole, got none of {', '.join(missing)}"
            )
        return cls(**found)  # type: ignore[arg-type]

    def to(self, device: torch.device | str) -> Projection:
        """The same on `device`."""
        return Projection(**{f.name: getattr(self, f.name).to(device) for f in fields(self)})


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


def projection_of(value: Projection | None, width: int) -> Projection | None:
    """With fp32 tensors of fitting shapes; `width` is what the score rows read."""
    if value is None:
        return None
    parts = {
        f.name: floating("Selector", f"projection.{f.name}", getattr(value, f.name)).float()
        for f in fields(value)
    }
    shape = tuple(parts["weight"].shape)
    if len(shape) != 2 or shape[0] != width:
        raise ValueError(
            f"Selector: projection.weight must have shape [{width}, D] (the width of the rows), "
            f"got {list(shape)}"
        )
    for name, size in (("norm_weight", shape[1]), ("norm_bias", shape[1]), ("bias", width)):
        if tuple(parts[name].shape) != (size,):
            raise ValueError(
                f"Selector: projection.{name} must have shape [{size}], "
                f"got {list(parts[name].shape)}"
            )
    return Projection(**{name: part.contiguous() for name, part in parts.items()})


def trigger_head_of(value: Any, hidden_size: int) -> TriggerHead | None:
    """A `TriggerHead` from one, or from (weight [hidden_size], bias) or (weight, bias, weight of
    the entropy); raises ValueError for anything else.
    """
    if value is None:
        return None
    if not isinstance(value, TriggerHead):
        value = TriggerHead(*value)
    weight = value.weight
    weight = floating("Selector", "trigger_head", weight).float().reshape(-1)
    if weight.numel() != hidden_size:
        raise ValueError(
            f"Selector: trigger_head must have {hidden_size} weights, got {weight.numel()}"
        )
    bias, entropy_weight = (
        finite("Selector", "trigger_head", v) for v in (value.bias, value.entropy_weight)
    )
    weights = value.logprob_weights
    if weights is not None:
        weights = floating("Selector", "trigger_head.logprob_weights", weights).float().reshape(-1)
    return TriggerHead(weight, bias, entropy_weight, weights)
