"""Where a trigger's threshold comes from: the configuration, the selector, or a quantile."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import torch

from s2t_ext.config import S2TConfig
from s2t_ext.selectors.parts import Calibration
from s2t_ext.selectors.selector import Selector
from s2t_ext.triggers import TRIGGERS, Trigger


def resolve_trigger(config: S2TConfig, selector: Selector | None) -> Trigger:
    """The trigger with its threshold: the configuration's, else the one calibrated into the
    selector.

    Args:
        config: Names the trigger, and gives a threshold or None.
        selector: Holds calibrations and a trigger head, or None.

    Returns:
        The trigger, ready for the decode loop.

    Raises:
        ValueError: if the trigger needs a threshold and neither has one, or needs a trigger head
            that is missing or reads the log-probabilities of more than `config.k` tokens.
    """
    trigger = TRIGGERS[config.trigger]
    threshold = config.threshold
    if trigger.has_threshold and threshold is None:
        calibration = None if selector is None else selector.calibration_for(trigger.name)
        if calibration is None:
            raise ValueError(
                f"generate: threshold must be set for trigger={trigger.name!r} (or stored in the "
                "selector by s2t_ext.calibrate), got None"
            )
        threshold = calibration.threshold
    if trigger.reads_hidden_state:
        check_trigger_head(config, selector)
    value = float("nan") if threshold is None else float(threshold)
    return trigger(value, config.warmup_steps)


def check_trigger_head(config: S2TConfig, selector: Selector | None) -> None:
    """Raises ValueError if the selector has no trigger head, or one that reads more of the best
    tokens than decoding finds.
    """
    head = None if selector is None else selector.trigger_head
    if head is None:
        raise ValueError(
            f"generate: selector must have a trigger head for trigger={config.trigger!r}, got none"
        )
    if head.num_logprobs > config.k:
        raise ValueError(
            f"generate: k must be at least {head.num_logprobs} for the selector's trigger head, "
            f"which reads so many log-probabilities, got {config.k}"
        )


def threshold_at_rate(
    statistics: Sequence[float], rate: float, trigger: str, prompts: Sequence[str] = ()
) -> Calibration:
    """The quantile of `statistics` at which `trigger` fires for a share `rate` of them.

    Args:
        statistics: Values of the trigger's statistic, one per step; those not finite are left out.
        rate: Share of the steps, in (0, 1).
        trigger: Its name.
        prompts: Texts the steps belong to; their digest is kept with the threshold.

    Returns:
        The threshold, the rate it has on these steps, and their number.

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
    below = TRIGGERS[trigger].fires_below
    # numpy's: torch's own ends at 2^24 values.
    threshold = float(np.quantile(values.numpy(), rate if below else 1.0 - rate))
    fired = (values < threshold) if below else (values > threshold)
    digest = hashlib.sha256("\0".join(prompts).encode()).hexdigest() if prompts else ""
    return Calibration(threshold, float(fired.double().mean()), len(values), digest)
