"""The three ways in: `s2t_ext.generate`, `custom_generate=decoding_method(...)`, and
`patch(model)`; one loop behind them.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from transformers import (
    GenerationConfig,
    GenerationMixin,
    LogitsProcessorList,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    StoppingCriteriaList,
    StopStringCriteria,
)
from transformers.generation.streamers import BaseStreamer

from s2t_ext.config import S2TConfig
from s2t_ext.decoding.decode_loop import decode
from s2t_ext.decoding.options import DecodingOptions
from s2t_ext.decoding.record import S2TGenerateOutput, StepEvent
from s2t_ext.decoding.requirements import check_prompt
from s2t_ext.hf.adapters import unwrap_peft
from s2t_ext.selectors.selector import Selector

_PATCHED = "_s2t_options"


class DecodingMethod:
    """A callable for `model.generate(..., custom_generate=...)`; make one with
    `decoding_method`.
    """

    def __init__(self, options: DecodingOptions, streamer: BaseStreamer | None = None) -> None:
        self.options = options
        self.streamer = streamer

    def __call__(
        self,
        model: PreTrainedModel,
        input_ids: torch.Tensor,
        logits_processor: LogitsProcessorList,
        stopping_criteria: StoppingCriteriaList,
        generation_config: GenerationConfig,
        **model_kwargs: Any,
    ) -> S2TGenerateOutput | torch.Tensor:
        """Called by transformers with everything prepared."""
        streamer, dropped = self.streamer, _arguments_generate_drops()
        if dropped.get("assistant_model") is not None:
            raise ValueError(
                "generate: assistant_model must be None (Select-to-Think does not speculate), "
                "got a model"
            )
        if streamer is None:
            streamer = dropped.get("streamer")  # transformers has already put the prompt
        elif dropped.get("streamer") is None:
            streamer.put(input_ids.cpu())
        return decode(
            model,
            input_ids,
            logits_processor,
            stopping_criteria,
            generation_config,
            self.options,
            streamer,
            bool(dropped.get("synced_gpus")),
            **model_kwargs,
        )


def decoding_method(
    s2t: S2TConfig | None = None,
    selector: Selector | None = None,
    teacher: Any = None,
    *,
    seed: int | Sequence[int] | None = None,
    on_step: Callable[[StepEvent], None] | None = None,
    streamer: BaseStreamer | None = None,
) -> DecodingMethod:
    """Select-to-Think decoding for `model.generate(**inputs,
    custom_generate=decoding_method(...))`.

    Args: as in `generate`.
    """
    return DecodingMethod(
        DecodingOptions(_config_for(s2t, selector), selector, teacher, seed, on_step), streamer
    )


def generate(
    model: nn.Module,
    inputs: torch.Tensor | None = None,
    *,
    s2t: S2TConfig | None = None,
    selector: Selector | None = None,
    teacher: Any = None,
    seed: int | Sequence[int] | None = None,
    on_step: Callable[[StepEvent], None] | None = None,
    streamer: BaseStreamer | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    **generate_kwargs: Any,
) -> S2TGenerateOutput | torch.Tensor:
    """`model.generate` with Select-to-Think decoding (arXiv 2604.26940).

    Args:
        model: Any causal language model of transformers, PEFT-wrapped or not.
        inputs: Prompt ids, int64 [batch, length] (or `input_ids=` and the rest of a tokenizer's
            output).
        s2t: Options; None takes the selector's, else the defaults.
        selector: The score head, needed for `select="local"` unless `trigger="never"`.
        teacher: A `Teacher`, needed for `select="teacher"`, `select="takeover"` and `trigger="kl"`.
        seed: Key of all random numbers: an integer (row b uses seed + b), one per row, or None
            (from torch's generator).
        on_step: Called with a `StepEvent` after every step.
        streamer: As in transformers; gets every token once it is decided.
        tokenizer: Only read for `stop_strings`.
        generate_kwargs: Anything `model.generate` takes; what cannot be honoured raises ValueError.

    Returns:
        What `model.generate` returns: ids int64 [batch, length + new], or with
        `return_dict_in_generate=True` a
        `S2TGenerateOutput`, whose `.s2t` is the `DecodingRecord`.

    Raises:
        ValueError: for options that contradict each other, the model, or this decoding method; the
            message says what to use instead.
    """
    method = decoding_method(s2t, selector, teacher, seed=seed, on_step=on_step, streamer=streamer)
    if generate_kwargs.pop("custom_generate", None) is not None:
        raise ValueError(
            "generate: custom_generate must be None (s2t_ext.generate is itself one), got a value"
        )
    _check_arguments(model, generate_kwargs)
    for prompt in (inputs, generate_kwargs.get("input_ids")):
        if prompt is not None and prompt.shape[0]:
            check_prompt(prompt, generate_kwargs)
    generate_kwargs = _with_stop_strings(generate_kwargs, model, tokenizer)
    call: Any = model.generate
    result: S2TGenerateOutput | torch.Tensor = call(
        inputs, custom_generate=method, **generate_kwargs
    )
    return result


def patch(
    model: PreTrainedModel,
    s2t: S2TConfig | None = None,
    selector: Selector | None = None,
    teacher: Any = None,
    *,
    seed: int | Sequence[int] | None = None,
    on_step: Callable[[StepEvent], None] | None = None,
) -> PreTrainedModel:
    """Makes the model's own `generate` decode with Select-to-Think, streamers and stop strings
    included.

    Beam search and assisted generation raise while patched. `unpatch` undoes it. Returns the model.
    """
    target = unwrap_peft(model)
    unpatch(target)
    cls = type(target)
    # The class keeps its name: transformers writes it into config.architectures when the model is
    # saved.
    target.__class__ = type(
        cls.__name__,
        (_PatchedGeneration, cls),
        {"__module__": cls.__module__, "__qualname__": cls.__qualname__},
    )
    setattr(
        target,
        _PATCHED,
        DecodingOptions(_config_for(s2t, selector), selector, teacher, seed, on_step),
    )
    return model


def unpatch(model: PreTrainedModel) -> PreTrainedModel:
    """Restores the model's own `generate`; does nothing to a model that is not patched. Returns the
    model.
    """
    target = unwrap_peft(model)
    if isinstance(target, _PatchedGeneration):
        target.__class__ = type(target).__mro__[2]
        delattr(target, _PATCHED)
    return model


class _PatchedGeneration:
    """Overrides the methods transformers dispatches to, per generation mode."""

    def _sample(
        self,
        input_ids: torch.Tensor,
        logits_processor: LogitsProcessorList,
        stopping_criteria: StoppingCriteriaList,
        generation_config: GenerationConfig,
        synced_gpus: bool = False,
        streamer: BaseStreamer | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,  # the stop strings' criterion has it
        **model_kwargs: Any,
    ) -> S2TGenerateOutput | torch.Tensor:
        return decode(
            self,
            input_ids,
            logits_processor,
            stopping_criteria,
            generation_config,
            getattr(self, _PATCHED),
            streamer,
            synced_gpus,
            **model_kwargs,
        )

    def _beam_search(self, *args: Any, **kwargs: Any) -> Any:
        raise ValueError(
            "generate: num_beams must be 1 on a patched model (s2t_ext.unpatch restores beam "
            "search), got more"
        )

    def generate_batch(self, *args: Any, **kwargs: Any) -> Any:
        raise ValueError(
            "generate: cache_implementation must not be 'paged' on a patched model (unpatch "
            "restores continuous batching), got 'paged'"
        )

    def _assisted_decoding(self, *args: Any, **kwargs: Any) -> Any:
        raise ValueError(
            "generate: assisted generation must be off on a patched model (s2t_ext.unpatch "
            "restores it), got on"
        )


def _check_arguments(model: nn.Module, generate_kwargs: dict[str, Any]) -> None:
    """Refuses what `model.generate` would act on before it reaches us."""
    if not isinstance(unwrap_peft(model), GenerationMixin):
        raise ValueError(
            "generate: model must be a causal language model of transformers, got "
            f"{type(model).__name__}"
        )
    if generate_kwargs.get("cache_implementation") == "paged":
        raise ValueError(
            "generate: cache_implementation must not be 'paged' (continuous batching bypasses "
            "custom decoding), got 'paged'"
        )
    config = generate_kwargs.get("generation_config")
    if generate_kwargs.get("token_healing") or getattr(config, "token_healing", False):
        raise ValueError(
            "generate: token_healing must be False (heal the prompt first: "
            "model.heal_tokens(input_ids, tokenizer)), got True"
        )


def _config_for(s2t: S2TConfig | None, selector: Selector | None) -> S2TConfig:
    if s2t is not None:
        return s2t
    if selector is not None and selector.decoding is not None:
        return selector.decoding
    return S2TConfig()


def _arguments_generate_drops() -> dict[str, Any]:
    """Arguments `generate` keeps from a callable (streamer, assistant_model, synced_gpus), read
    from its frame.

    transformers hands a `custom_generate` callable only the arguments `_sample` does not name,
    without a word about the others.
    Reading them here is what lets a streamer work, and an assistant model be refused, instead of
    being silently ignored.
    """
    frame = sys._getframe(2)
    if frame.f_code.co_name != "generate" or "custom_generate" not in frame.f_locals:
        return {}
    return {
        name: frame.f_locals.get(name) for name in ("streamer", "assistant_model", "synced_gpus")
    }


def _with_stop_strings(
    generate_kwargs: dict[str, Any], model: nn.Module, tokenizer: PreTrainedTokenizerBase | None
) -> dict[str, Any]:
    """Turns `stop_strings` into a stopping criterion, since `generate` keeps the tokenizer from a
    callable.
    """
    config = generate_kwargs.get("generation_config")
    own = unwrap_peft(model).generation_config
    strings = generate_kwargs.pop("stop_strings", None)
    for source in (config, own):
        strings = strings if strings is not None else getattr(source, "stop_strings", None)
    if strings is None:
        return generate_kwargs
    if tokenizer is None:
        raise ValueError("generate: tokenizer must be given for stop_strings, got None")
    criteria = StoppingCriteriaList(generate_kwargs.pop("stopping_criteria", None) or [])
    criteria.append(StopStringCriteria(tokenizer=tokenizer, stop_strings=strings))
    if config is not None:
        generate_kwargs["generation_config"] = config = copy.deepcopy(config)
        config.stop_strings = None
    if own.stop_strings is not None:
        generate_kwargs["stop_strings"] = None  # only an argument overrides the model's own
    return {**generate_kwargs, "stopping_criteria": criteria}
