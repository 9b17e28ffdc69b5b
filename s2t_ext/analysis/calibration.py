"""Calibration: the threshold at which a trigger fires at a wanted rate on your own prompts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from s2t_ext.config import S2TConfig
from s2t_ext.rollouts import trigger_statistics
from s2t_ext.runs.number_arguments import checked_numbers
from s2t_ext.selectors.parts import Calibration
from s2t_ext.selectors.selector import Selector
from s2t_ext.selectors.thresholds import threshold_at_rate
from s2t_ext.triggers import TRIGGERS


@checked_numbers
def calibrate(
    model: nn.Module,
    tokenizer: Any,
    prompts: Sequence[str],
    *,
    rate: float = 0.01,
    trigger: str = "entropy",
    selector: Selector | None = None,
    max_new_tokens: int = 256,
    batch_size: int = 8,
    use_chat_template: bool = True,
    progress: bool | None = None,
    **generate_kwargs: Any,
) -> Calibration:
    """Measures a trigger's statistic on the model's own greedy rollouts and takes its quantile
    (paper, section 3.2).

    Args:
        model: The student.
        tokenizer: Its tokenizer; it must pad on the left (it is set to).
        prompts: Texts; with `use_chat_template` each is one user turn.
        rate: Share of steps that should trigger, in (0, 1). Steps of the warmup are not counted.
        trigger: "entropy", "margin" or "head" (which needs `selector`).
        selector: If given, the calibration is also stored in it.
        max_new_tokens: Length of the rollouts, tokens.
        batch_size: Rollouts at a time.
        generate_kwargs: Further options of the rollouts, as `model.generate` takes them.
        progress: Show a progress bar; None shows it on a terminal.

    Returns:
        A `Calibration` with the threshold, the rate it has on these rollouts, and the number of
        steps behind it.

    Raises:
        ValueError: for a rate, trigger or prompt list that cannot be used.
    """
    if not 0.0 < rate < 1.0:
        raise ValueError(f"calibrate: rate must be in (0, 1), got {rate}")
    calibrated = [name for name, kind in TRIGGERS.items() if kind.is_calibrated]
    if trigger not in calibrated:
        allowed = ", ".join(calibrated)
        raise ValueError(f"calibrate: trigger must be one of {allowed}, got {trigger!r}")
    if not prompts:
        raise ValueError("calibrate: prompts must hold at least one text, got none")
    reads_head = TRIGGERS[trigger].reads_hidden_state
    if reads_head and (selector is None or selector.trigger_head is None):
        raise ValueError(
            f"calibrate: selector must have a trigger head for trigger={trigger!r}, got none"
        )
    base = (selector.decoding if selector is not None else None) or S2TConfig()
    statistics = trigger_statistics(
        model,
        tokenizer,
        prompts,
        replace(base, trigger=trigger, threshold=None, select="local"),
        batch_size=batch_size,
        progress=progress,
        max_new_tokens=max_new_tokens,
        use_chat_template=use_chat_template,
        selector=selector,
        **generate_kwargs,
    )
    calibration = threshold_at_rate(statistics, rate, trigger, prompts)
    if selector is not None:
        selector.calibrations[trigger] = calibration
    return calibration
