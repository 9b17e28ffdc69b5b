"""One generation, checked at the door: behind it nothing asks again whether the options fit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from transformers import GenerationConfig, LogitsProcessorList, PreTrainedModel

from s2t_ext.config import S2TConfig
from s2t_ext.decoding.options import DecodingOptions, row_seeds
from s2t_ext.decoding.record import StepEvent
from s2t_ext.decoding.requirements import (
    check_choices,
    check_generation,
    check_options,
    check_prompt,
)
from s2t_ext.hf.generate_internals import GenerateCall, check_release, pad_token_id
from s2t_ext.selectors.selector import Selector
from s2t_ext.selectors.thresholds import resolve_trigger
from s2t_ext.triggers import Trigger


@dataclass(frozen=True)
class Plan:
    """What one generation does.

    Attributes:
        config: The options.
        trigger: With its threshold.
        selector: On the device of the prompt; None where none chooses or is asked.
        teacher: A `Teacher`; None where none chooses or is asked.
        seed: int64 [batch], with the position the key of a row's random numbers; zeros where none
            are drawn.
        pad_id: Token of finished rows.
        blocked_ids: int64 ids that are never proposed or drawn, or None.
        on_step: Called with a `StepEvent` after every step, or None.
        expand_reason: What in this generation only the expanded step can do, or None.
    """

    config: S2TConfig
    trigger: Trigger
    selector: Selector | None
    teacher: Any
    seed: torch.Tensor
    pad_id: int
    blocked_ids: torch.Tensor | None
    on_step: Callable[[StepEvent], None] | None
    expand_reason: str | None


def make_plan(
    model: PreTrainedModel,
    input_ids: torch.Tensor,
    options: DecodingOptions,
    generation_config: GenerationConfig,
    logits_processor: LogitsProcessorList,
    model_kwargs: dict[str, Any],
    call: GenerateCall,
) -> Plan:
    """Checks everything that can be known before the first forward pass.

    Args:
        model: The student, without wrappers.
        input_ids: int64 [batch, length]; a batch of 0 rows is a plan for nothing.
        options: What the caller added to `generate`'s own arguments.
        generation_config: As transformers prepared it.
        logits_processor: As transformers prepared it.
        model_kwargs: What goes to the model.
        call: What the caller of `generate` gave.

    Raises:
        ValueError: for what cannot be done, with what to do instead.
    """
    check_release()
    check_generation(model, generation_config, logits_processor, model_kwargs, call.synced_gpus)
    config, selector = options.config, options.selector
    check_options(config, selector, options.teacher)
    trigger = resolve_trigger(config, selector)
    expand_reason = None
    if trigger.can_fire:
        expand_reason = check_choices(model, input_ids, config, generation_config, model_kwargs)
    batch, device = input_ids.shape[0], input_ids.device
    if batch:
        check_prompt(input_ids, model_kwargs)
    blocked = None
    if selector is not None:
        if batch:
            scores = trigger.can_fire and config.select == "local"
            selector.check_fits(model, scores=scores)
        selector = selector.on(device)
        if selector.reserved_ids:
            blocked = torch.tensor(selector.reserved_ids, dtype=torch.int64, device=device)
    return Plan(
        config=config,
        trigger=trigger,
        selector=selector,
        teacher=options.teacher,
        seed=_seeds(options, trigger, generation_config, batch, device),
        pad_id=pad_token_id(generation_config),
        blocked_ids=blocked,
        on_step=options.on_step,
        expand_reason=expand_reason,
    )


def _seeds(
    options: DecodingOptions,
    trigger: Trigger,
    generation_config: GenerationConfig,
    batch: int,
    device: torch.device,
) -> torch.Tensor:
    """Torch's generator is left alone where nothing is drawn, as by `model.generate`: others may
    read it too, such as dropout.
    """
    chooses_by_chance = trigger.can_fire and options.config.score_temperature > 0
    draws = generation_config.do_sample or chooses_by_chance or trigger.reads_random_numbers
    if batch == 0 or (options.seed is None and not draws):
        return torch.zeros(batch, dtype=torch.int64, device=device)
    return row_seeds(options.seed, batch, device)
