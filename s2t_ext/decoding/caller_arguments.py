"""What callers give to `generate`, before transformers acts on it: the same for all ways in."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedTokenizerBase, StopStringCriteria

from s2t_ext.decoding.options import DecodingOptions
from s2t_ext.hf.generate_internals import CallAtTheDoor
from s2t_ext.hf.identity import check_same_tokenizer

#: The keyword by which `generate` hands over what became of `stop_strings`.
STOP_CRITERION = "stop_string_criterion"


def admit(call: CallAtTheDoor, options: DecodingOptions) -> None:
    """Checks a call of `generate`, and turns its stop strings into a criterion: transformers keeps
    the tokenizer, which they need, from a callable.

    Raises:
        ValueError: for what `generate` would act on before it reaches a decoding method.
    """
    if STOP_CRITERION in call.keywords:
        return  # `generate` looks several times
    _check(call)
    tokenizer: PreTrainedTokenizerBase | None = call.keywords.get("tokenizer")
    teachers = getattr(options.teacher, "tokenizer", None)
    if tokenizer is not None and teachers is not None:
        check_same_tokenizer(tokenizer, teachers)
    strings = _given(call, "stop_strings")
    if strings is None:
        return
    if tokenizer is None:
        raise ValueError("generate: tokenizer must be given for stop_strings, got None")
    call.keywords[STOP_CRITERION] = StopStringCriteria(tokenizer=tokenizer, stop_strings=strings)
    call.keywords["stop_strings"] = None  # an argument overrides what the configurations say


def _check(call: CallAtTheDoor) -> None:
    if _given(call, "cache_implementation") == "paged":
        raise ValueError(
            "generate: cache_implementation must not be 'paged' (continuous batching bypasses "
            "custom decoding), got 'paged'"
        )
    if _given(call, "token_healing"):
        raise ValueError(
            "generate: token_healing must be False (heal the prompt first: "
            "model.heal_tokens(input_ids, tokenizer)), got True"
        )


def _given(call: CallAtTheDoor, name: str) -> Any:
    """An option as `generate` will find it: its argument, the caller's configuration, the
    model's.
    """
    if name in call.keywords:
        return call.keywords[name]
    configs = (call.generation_config, call.model.generation_config)
    values = (getattr(config, name, None) for config in configs)
    return next((value for value in values if value is not None), None)
