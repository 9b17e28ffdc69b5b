"""What the decode loop does not do, said before it starts: every refusal names the reason and the
alternative.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from transformers import (
    GenerationConfig,
    LogitsProcessorList,
    PreTrainedModel,
    UnbatchedClassifierFreeGuidanceLogitsProcessor,
)

from s2t_ext.config import S2TConfig
from s2t_ext.decoding.forward_outputs import asked_outputs
from s2t_ext.hf.cache_argument import ALL_CACHE_NAMES
from s2t_ext.hf.generate_internals import (
    MULTIMODAL_INPUTS_TO_DROP_OUTSIDE_PREFILL,
    GenerationMode,
)
from s2t_ext.hf.model_state import accelerators
from s2t_ext.selectors.selector import Selector
from s2t_ext.triggers import TRIGGERS

#: Arguments of the model that every candidate forward honours.
_CARRIED_BY_CANDIDATES = {
    "attention_mask",
    "logits_to_keep",
    "output_attentions",
    "output_hidden_states",
    "position_ids",
    "use_cache",
}
#: Arguments that only the prompt needs, where a cache keeps what came of it; and the cache.
_KEPT_BY_THE_CACHE = {
    "inputs_embeds",
    *ALL_CACHE_NAMES,
    *MULTIMODAL_INPUTS_TO_DROP_OUTSIDE_PREFILL,
}

#: Arguments of every forward that the rows of an expanded step carry, and a tree does not.
_CARRIED_BY_ROWS = ("token_type_ids",)

_MODE_ARGUMENTS = {
    GenerationMode.BEAM_SEARCH: "num_beams must be 1",
    GenerationMode.BEAM_SAMPLE: "num_beams must be 1",
    GenerationMode.GROUP_BEAM_SEARCH: "num_beam_groups must be 1",
    GenerationMode.CONSTRAINED_BEAM_SEARCH: "constraints must be None",
    GenerationMode.CONTRASTIVE_SEARCH: "penalty_alpha must be None",
    GenerationMode.ASSISTED_GENERATION: (
        "assistant_model, prompt_lookup_num_tokens, assistant_early_exit and use_mtp must be unset"
    ),
    GenerationMode.DOLA_GENERATION: "dola_layers must be None",
}


def check_generation(
    model: PreTrainedModel,
    generation_config: GenerationConfig,
    logits_processor: LogitsProcessorList,
    model_kwargs: dict[str, Any],
    synced_gpus: bool,
) -> None:
    """Raises ValueError for a generation mode or option that Select-to-Think decoding cannot
    honour.
    """
    mode = generation_config.get_generation_mode()
    if mode not in (GenerationMode.GREEDY_SEARCH, GenerationMode.SAMPLE):
        rule = _MODE_ARGUMENTS.get(mode, "the mode must be greedy or sampling")
        _refuse(
            f"{rule} (Select-to-Think decodes greedily or by sampling; use model.generate for "
            "this mode, on a model that is not patched)",
            mode.value,
        )
    if model.config.is_encoder_decoder:
        _refuse("model must be decoder-only", f"the encoder-decoder {type(model).__name__}")
    if synced_gpus:
        _refuse(
            "synced_gpus must be False (fully sharded models are not supported: gather the "
            "model first)",
            True,
        )
    if generation_config.guidance_scale not in (None, 1, 1.0) or any(
        isinstance(p, UnbatchedClassifierFreeGuidanceLogitsProcessor) for p in logits_processor
    ):
        _refuse(
            "guidance_scale must be 1 (its processor runs the model itself, once per step, and "
            "would not see the candidates)",
            generation_config.guidance_scale,
        )


def check_options(config: S2TConfig, selector: Selector | None, teacher: object | None) -> None:
    """Raises ValueError if the options ask for a selector or teacher that was not given."""
    trigger = TRIGGERS[config.trigger]
    # A threshold that nothing reaches, as at the end of a sweep, asks nobody.
    is_open = config.threshold is None and trigger.has_threshold
    chooses = is_open or trigger(_number(config.threshold)).can_fire
    if chooses and config.select == "local" and selector is None:
        _refuse("selector must be given for select='local' (or set trigger='never')", None)
    if config.select in ("teacher", "takeover") and chooses and teacher is None:
        _refuse(f"teacher must be given for select={config.select!r}", None)
    if trigger.reads_teacher and teacher is None:
        _refuse(f"teacher must be given for trigger={config.trigger!r}", None)
    may_ask = config.select != "local" and (trigger.has_threshold or chooses)
    if teacher is not None and not (trigger.reads_teacher or may_ask):
        _refuse(
            f"teacher must be None for select={config.select!r} and trigger={config.trigger!r}",
            type(teacher).__name__,
        )


def _number(threshold: float | None) -> float:
    return math.nan if threshold is None else threshold


def _why_expand(generation_config: GenerationConfig, carried: list[str]) -> str | None:
    """What is asked of this generation that only the expanded step can do, in words; or None."""
    if not generation_config.use_cache:
        return "use_cache=False"
    asked = asked_outputs(generation_config)
    if asked:
        return f"output_{asked[0]}=True"
    return f"{carried[0]} of every token" if carried else None


def check_choices(
    model: PreTrainedModel,
    input_ids: torch.Tensor,
    config: S2TConfig,
    generation_config: GenerationConfig,
    model_kwargs: dict[str, Any],
) -> str | None:
    """Raises ValueError for what an ordinary step honours but a choice would silently drop.

    Returns:
        What is asked of this generation that only the expanded step can do, in words; or None.
    """
    if generation_config.do_sample and generation_config.watermarking_config is not None:
        _refuse(
            "watermarking_config must be None where choices are made while sampling (they are made "
            "before the watermark: decode greedily, or set trigger='never')",
            type(generation_config.watermarking_config).__name__,
        )
    if config.select != "local":
        return None
    if not isinstance(model, PreTrainedModel):  # some only bring `generate` along
        _refuse(
            "model must be one of transformers' own kind where its candidates are scored (set "
            "trigger='never' or select='teacher')",
            type(model).__name__,
        )
    if not generation_config.use_cache and generation_config.use_cache is not False:
        _refuse(
            "use_cache must be True or False where choices are made (for anything else that counts "
            "as False, transformers fills a cache and then does not read from it)",
            repr(generation_config.use_cache),
        )
    position_ids = model_kwargs.get("position_ids")
    if position_ids is not None and position_ids.dim() != 2:
        _refuse(
            "model must place tokens on one axis where candidates are scored (set trigger='never' "
            "or select='teacher')",
            f"{type(model).__name__} with positions of {position_ids.dim()} dimensions",
        )
    devices = accelerators(model)
    if len(devices) > 1:
        _refuse(
            "model must be on one device where its candidates are scored (load it with "
            "device_map={'': 0}, or set trigger='never' or select='teacher')",
            ", ".join(devices),
        )
    kept = _kept_arguments(model, input_ids, generation_config, model_kwargs)
    for name in kept:
        if name not in _CARRIED_BY_ROWS:
            _refuse(
                f"{name} must be None where choices are made (the forward pass of the candidates "
                "does not carry it: set trigger='never')",
                type(model_kwargs[name]).__name__,
            )
    reason = _why_expand(generation_config, kept)
    if config.step == "tree" and reason is not None:
        _refuse(f"step must be 'auto' or 'expand' with {reason}", "'tree'")
    return reason


def _kept_arguments(
    model: PreTrainedModel,
    input_ids: torch.Tensor,
    generation_config: GenerationConfig,
    model_kwargs: dict[str, Any],
) -> list[str]:
    """The arguments that every forward after the prompt needs, without those that all candidate
    forwards carry.
    """
    carried = set(_CARRIED_BY_CANDIDATES)
    if generation_config.use_cache:
        carried |= _KEPT_BY_THE_CACHE
    others = [name for name, value in model_kwargs.items() if value is not None]
    others = [name for name in others if name not in carried]
    kept = _kept_after_the_prompt(model, input_ids, model_kwargs) if others else {}
    return [name for name in others if kept.get(name) is not None]


def _kept_after_the_prompt(
    model: PreTrainedModel, input_ids: torch.Tensor, model_kwargs: dict[str, Any]
) -> dict[str, Any]:
    """What the model's own preparation passes to a forward that follows the prompt: arguments of
    the prompt alone, such as `token_type_ids` of a text, are gone.
    """
    if input_ids.shape[-1] == 0:  # embeddings: there is nothing to prepare the inputs from
        return model_kwargs
    inputs: dict[str, Any] = model.prepare_inputs_for_generation(
        input_ids, next_sequence_length=1, is_first_iteration=False, **model_kwargs
    )
    return inputs


def check_prompt(input_ids: torch.Tensor, model_kwargs: dict[str, Any]) -> None:
    """Raises ValueError for a prompt without tokens."""
    if input_ids.shape[-1] == 0 and model_kwargs.get("inputs_embeds") is None:
        _refuse(
            "input_ids must hold at least one token per row (begin with the bos token)",
            f"shape {list(input_ids.shape)}",
        )


def _refuse(rule: str, value: Any) -> None:
    raise ValueError(f"generate: {rule}, got {value}")
