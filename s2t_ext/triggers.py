"""When a row needs a choice: one statistic per trigger, compared with its threshold (paper, section
3.2).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from s2t_ext.config import THRESHOLD_TRIGGERS, S2TConfig
from s2t_ext.ops.random_uniform import random_uniform
from s2t_ext.ops.reference.philox import PURPOSE_TRIGGER
from s2t_ext.selectors.parts import Calibration

if TYPE_CHECKING:
    from s2t_ext.ops import ProposedCandidates
    from s2t_ext.selectors.selector import Selector

#: Triggers that fire when the statistic is *below* the threshold.
FIRES_BELOW = ("margin", "random")


@dataclass(frozen=True)
class Trigger:
    """A trigger with its threshold resolved, ready for the decode loop.

    Attributes:
        name: One of `s2t_ext.config.TRIGGERS`.
        threshold: The value the statistic is compared with; NaN for `always` and `never`.
        warmup_steps: Steps at the start of a generation in which nothing fires.
    """

    name: str
    threshold: float
    warmup_steps: int

    @property
    def can_fire(self) -> bool:
        """False if no value of the statistic reaches the threshold: decoding is then the plain
        model's.
        """
        if self.name in ("always", "never"):
            return self.name == "always"
        if self.name == "random":
            return self.threshold > 0.0
        if self.name == "head":
            return self.threshold < 1.0
        return self.threshold != (-math.inf if self.name in FIRES_BELOW else math.inf)

    @property
    def needs_hidden_state(self) -> bool:
        """Whether the statistic reads the hidden state that proposed the candidates."""
        return self.name == "head"

    def statistic(
        self,
        proposal: ProposedCandidates,
        *,
        seed: torch.Tensor,
        position: torch.Tensor,
        hidden: torch.Tensor | None = None,
        selector: Selector | None = None,
    ) -> torch.Tensor:
        """The value compared with the threshold, fp32 [batch].

        entropy: entropy of the support (nats). margin: top-1 minus top-2 logit (+inf with one
        candidate). head: sigmoid(w . hidden + b). random: a Philox uniform of (seed, position).
        always, never: zeros. (kl comes from the teacher, not from here.)
        """
        if self.name == "entropy":
            return proposal.support_entropy
        if self.name == "margin":
            logits = proposal.logits
            if logits.shape[1] < 2:
                return torch.full_like(logits[:, 0], float("inf"))
            return logits[:, 0] - logits[:, 1]
        if self.name == "head":
            assert (
                selector is not None and hidden is not None
            )  # resolve_trigger() checked the selector
            return selector.trigger_probability(hidden)
        if self.name == "random":
            return random_uniform(seed, position, PURPOSE_TRIGGER)
        return torch.zeros_like(proposal.logsumexp)

    def fires(self, statistic: torch.Tensor, step: int) -> torch.Tensor:
        """Bool [batch]: which rows need a choice at this step (0 is the first generated token). NaN
        never fires.
        """
        if not self.can_fire or step < self.warmup_steps:
            return torch.zeros_like(statistic, dtype=torch.bool)
        if self.name == "always":
            return torch.ones_like(statistic, dtype=torch.bool)
        if self.name in FIRES_BELOW:
            return statistic < self.threshold
        return statistic > self.threshold


def resolve_trigger(config: S2TConfig, selector: Selector | None) -> Trigger:
    """Settles the trigger's threshold: the configuration's, else the one calibrated into the
    selector.

    Raises:
        ValueError: if the trigger needs a threshold and neither has one, or needs a trigger head
            that is missing.
    """
    name = config.trigger
    threshold = config.threshold
    if name in THRESHOLD_TRIGGERS and threshold is None:
        calibration = selector.calibration_for(name) if selector is not None else None
        if calibration is None and selector is None and config.select == "local":
            raise ValueError(
                "generate: selector must be given for select='local' (or set trigger='never'), "
                "got None"
            )
        if calibration is None:
            raise ValueError(
                f"generate: threshold must be set for trigger={name!r} (or stored in the "
                "selector by "
                "s2t_ext.calibrate), got None"
            )
        threshold = calibration.threshold
    if name == "head" and (selector is None or selector.trigger_head is None):
        raise ValueError("generate: selector must have a trigger head for trigger='head', got none")
    return Trigger(
        name, float("nan") if threshold is None else float(threshold), config.warmup_steps
    )


def threshold_at_rate(
    statistics: Sequence[float], rate: float, trigger: str, prompts: Sequence[str] = ()
) -> Calibration:
    """The quantile of `statistics` at which `trigger` fires for a share `rate` of them.

    Raises:
        ValueError: if there are no steps to take a quantile of.
    """
    if not statistics:
        raise ValueError("calibrate: rollouts must be longer than the warmup, got no steps")
    values = torch.tensor(statistics, dtype=torch.float64)
    values = values[values.isfinite()]  # a row without valid logits has none
    if not len(values):
        raise ValueError(
            f"calibrate: trigger must have a finite statistic, got {trigger!r} with none"
        )
    below = trigger in FIRES_BELOW
    # numpy's: torch's own ends at 2^24 values.
    threshold = float(np.quantile(values.numpy(), rate if below else 1.0 - rate))
    fired = (values < threshold) if below else (values > threshold)
    digest = hashlib.sha256("\0".join(prompts).encode()).hexdigest() if prompts else ""
    return Calibration(threshold, float(fired.double().mean()), len(values), digest)
