"""What callers give to `generate`, before transformers acts on it: the same for all ways in."""

from __future__ import annotations

import copy
from typing import Any

from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    StoppingCriteriaList,
    StopStringCriteria,
)

from s2t_ext.decoding.options import DecodingOptions
from s2t_ext.hf.identity import check_same_tokenizer


def check_before_generate(generate_kwargs: dict[str, Any]) -> None:
    """Raises ValueError for what `model.generate` would act on before it reaches a decoding
    method.
    """
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


def prepared_arguments(
    model: PreTrainedModel,
    options: DecodingOptions,
    generate_kwargs: dict[str, Any],
    tokenizer: PreTrainedTokenizerBase | None,
) -> dict[str, Any]:
    """The arguments for `model.generate`: checked, and stop strings as a criterion."""
    check_before_generate(generate_kwargs)
    teachers = getattr(options.teacher, "tokenizer", None)
    if tokenizer is not None and teachers is not None:
        check_same_tokenizer(tokenizer, teachers)
    return _with_stop_strings(generate_kwargs, model, tokenizer)


def _with_stop_strings(
    generate_kwargs: dict[str, Any],
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase | None,
) -> dict[str, Any]:
    """Turns `stop_strings` into a stopping criterion, since `generate` keeps the tokenizer from a
    callable.
    """
    config = generate_kwargs.get("generation_config")
    own = model.generation_config
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
