"""The three ways in: `s2t_ext.generate`, `custom_generate=decoding_method(...)`, and
`patch(model)`; one loop behind them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
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

from s2t_ext.config import S2TConfig
from s2t_ext.decoding.arguments import check_prompt_type, decoding_options
from s2t_ext.decoding.caller_arguments import admit
from s2t_ext.decoding.decode_loop import decode
from s2t_ext.decoding.options import DecodingOptions
from s2t_ext.decoding.record import S2TGenerateOutput, StepEvent
from s2t_ext.decoding.requirements import check_prompt
from s2t_ext.hf.generate_internals import (
    BaseStreamer,
    arguments_of_generate,
    call_at_the_door,
)
from s2t_ext.hf.unwrapping import unwrap_model
from s2t_ext.selectors.selector import Selector
from s2t_ext.teachers.base import Teacher


class DecodingMethod:
    """A callable for `model.generate(..., custom_generate=...)`; make one with
    `decoding_method`.
    """

    def __init__(self, options: DecodingOptions, streamer: BaseStreamer | None = None) -> None:
        self.options = options
        self.streamer = streamer

    @property  # type: ignore[misc]
    def __class__(self) -> type[DecodingMethod]:
        """transformers asks `isinstance(custom_generate, str)` before anything else, and then takes
        some arguments away from a callable without a word. This is where a word can be said.
        """
        call = call_at_the_door(self)
        if call is not None:
            admit(call, self.options)
        return DecodingMethod

    def __call__(
        self,
        model: PreTrainedModel,
        input_ids: torch.Tensor,
        logits_processor: LogitsProcessorList,
        stopping_criteria: StoppingCriteriaList,
        generation_config: GenerationConfig,
        stop_string_criterion: StopStringCriteria | None = None,
        **model_kwargs: Any,
    ) -> S2TGenerateOutput | torch.Tensor:
        """Called by transformers with everything prepared; `stop_string_criterion` by `admit`."""
        if stop_string_criterion is not None:
            stopping_criteria = StoppingCriteriaList([*stopping_criteria, stop_string_criterion])
        streamer, call = self.streamer, arguments_of_generate()
        if call.assistant_model is not None:
            raise ValueError(
                "generate: assistant_model must be None (Select-to-Think does not speculate), "
                "got a model"
            )
        if streamer is None:
            streamer = call.streamer  # transformers has already put the prompt
        elif call.streamer is None:
            streamer.put(input_ids.cpu())
        return decode(
            model,
            input_ids,
            logits_processor,
            stopping_criteria,
            generation_config,
            self.options,
            call,
            streamer,
            **model_kwargs,
        )


def decoding_method(
    s2t: S2TConfig | Mapping[str, Any] | None = None,
    selector: Selector | str | Path | None = None,
    teacher: Teacher | PreTrainedModel | None = None,
    *,
    seed: int | Sequence[int] | None = None,
    on_step: Callable[[StepEvent], None] | None = None,
    streamer: BaseStreamer | None = None,
) -> DecodingMethod:
    """Select-to-Think decoding for `model.generate(**inputs,
    custom_generate=decoding_method(...))`.

    Args:
        s2t: Options, as in `generate`.
        selector: The score head, as in `generate`.
        teacher: The large model, as in `generate`.
        seed: Key of all random numbers, as in `generate`, and the same for every call; with None
            each call draws its own.
        on_step: Called with a `StepEvent` after every step.
        streamer: Gets every token once it is decided; one given to `model.generate` works too.

    Returns:
        A callable for `model.generate(..., custom_generate=...)`.
    """
    return DecodingMethod(
        decoding_options("decoding_method", None, s2t, selector, teacher, seed, on_step), streamer
    )


def generate(
    model: nn.Module,
    inputs: torch.Tensor | Mapping[str, Any] | None = None,
    generation_config: GenerationConfig | None = None,
    *,
    s2t: S2TConfig | Mapping[str, Any] | None = None,
    selector: Selector | str | Path | None = None,
    teacher: Teacher | PreTrainedModel | None = None,
    seed: int | Sequence[int] | None = None,
    on_step: Callable[[StepEvent], None] | None = None,
    streamer: BaseStreamer | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    **generate_kwargs: Any,
) -> S2TGenerateOutput | torch.Tensor:
    """`model.generate` with Select-to-Think decoding (arXiv 2604.26940).

    Args:
        model: Any causal language model of transformers, in a wrapper of PEFT or `torch.compile`
            or not.
        inputs: Prompt ids, int64 [batch, length], or a tokenizer's whole output (also as keywords:
            `input_ids=`, `attention_mask=`, ...).
        generation_config: As in `model.generate`.
        s2t: Options, also as a dictionary; None takes the selector's, else the defaults.
        selector: The score head, needed for `select="local"` unless `trigger="never"`; also as its
            folder or hub repository, which is read once for each model.
        teacher: A `Teacher`, or a larger model with the same tokenizer; needed for
            `select="teacher"`, `select="takeover"` and `trigger="kl"`.
        seed: Key of all random numbers: an integer (row b uses seed + b), one per row, or None
            (from torch's generator).
        on_step: Called with a `StepEvent` after every step.
        streamer: As in transformers; gets every token once it is decided.
        tokenizer: The model's, for `stop_strings`, and to be compared with the teacher's.
        generate_kwargs: Anything `model.generate` takes; what cannot be honoured raises ValueError.

    Returns:
        What `model.generate` returns: ids int64 [batch, length + new], or with
        `return_dict_in_generate=True` a
        `S2TGenerateOutput`, whose `.s2t` is the `DecodingRecord`.

    Raises:
        ValueError: for options that contradict each other, the model, or this decoding method; the
            message says what to use instead.
    """
    check_prompt_type(inputs, "generate")
    plain = checked_model(model, "generate")
    options = decoding_options("generate", plain, s2t, selector, teacher, seed, on_step)
    method = DecodingMethod(options, streamer)
    if generate_kwargs.pop("custom_generate", None) is not None:
        raise ValueError(
            "generate: custom_generate must be None (s2t_ext.generate is itself one), got a value"
        )
    if isinstance(inputs, Mapping):
        generate_kwargs = {**inputs, **generate_kwargs}
        inputs = None
    if generation_config is not None:
        generate_kwargs["generation_config"] = generation_config
    if tokenizer is not None:
        generate_kwargs["tokenizer"] = tokenizer
    for prompt in (inputs, generate_kwargs.get("input_ids")):
        if prompt is not None and prompt.shape[0]:
            check_prompt(prompt, generate_kwargs)
    call: Any = model.generate
    result: S2TGenerateOutput | torch.Tensor = call(
        inputs, custom_generate=method, **generate_kwargs
    )
    return result


def patch(
    model: PreTrainedModel,
    s2t: S2TConfig | Mapping[str, Any] | None = None,
    selector: Selector | str | Path | None = None,
    teacher: Teacher | PreTrainedModel | None = None,
    *,
    seed: int | Sequence[int] | None = None,
    on_step: Callable[[StepEvent], None] | None = None,
) -> PreTrainedModel:
    """Makes the model's own `generate` decode with Select-to-Think, streamers and stop strings
    included.

    The model keeps its class; copies of it, and what is pickled, stay patched. Beam search and
    assisted generation raise while patched. `unpatch` undoes it.

    Args:
        model: Any causal language model of transformers, PEFT-wrapped or not; changed in place.
        s2t: Options, as in `generate`.
        selector: The score head, as in `generate`.
        teacher: The large model, as in `generate`.
        seed: Key of all random numbers, as in `generate`, and the same for every call; with None
            each call draws its own.
        on_step: Called with a `StepEvent` after every step.

    Returns:
        The model.

    Raises:
        ValueError: if the model is not a causal language model of transformers, in a wrapper of
            PEFT or `torch.compile` or not.
    """
    target = checked_model(model, "patch")
    options = decoding_options("patch", target, s2t, selector, teacher, seed, on_step)
    target.generate = PatchedGenerate(target, options)
    return model


def unpatch(model: PreTrainedModel) -> PreTrainedModel:
    """Restores the model's own `generate`; does nothing to a model that is not patched. Returns the
    model.
    """
    target = unwrap_model(model)
    if isinstance(vars(target).get("generate"), PatchedGenerate):
        del target.generate
    return model


class PatchedGenerate:
    """The `generate` of a patched model: an attribute of the model itself, in front of its
    class's method.
    """

    def __init__(self, model: PreTrainedModel, options: DecodingOptions) -> None:
        self.model = model
        self.options = options

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """`model.generate`, with its arguments; a `custom_generate` of the caller's own wins."""
        own = type(self.model).generate
        if kwargs.get("custom_generate") is not None:
            return own(self.model, *args, **kwargs)
        kwargs["custom_generate"] = DecodingMethod(self.options)
        return own(self.model, *args, **kwargs)


def checked_model(model: nn.Module, where: str) -> PreTrainedModel:
    """The transformers model inside the wrappers; raises ValueError if there is none."""
    plain: PreTrainedModel = unwrap_model(model)
    if not isinstance(plain, GenerationMixin):
        raise ValueError(
            f"{where}: model must be a causal language model of transformers, got "
            f"{type(model).__name__}"
        )
    return plain
