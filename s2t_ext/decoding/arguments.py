"""What the ways in accept for options, selector, teacher and prompt: the thing itself, or what it
is commonly written as.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from s2t_ext.config import S2TConfig
from s2t_ext.decoding.options import DecodingOptions
from s2t_ext.decoding.record import StepEvent
from s2t_ext.hf.unwrapping import unwrap_model
from s2t_ext.selectors.selector import Selector
from s2t_ext.teachers.base import Teacher

#: Selectors loaded by name for a model: an adapter can be attached to it only once.
_loaded: weakref.WeakKeyDictionary[nn.Module, dict[str, Selector]] = weakref.WeakKeyDictionary()


def decoding_options(
    function: str,
    model: PreTrainedModel | None,
    s2t: S2TConfig | Mapping[str, Any] | None,
    selector: Selector | str | Path | None,
    teacher: Teacher | PreTrainedModel | None,
    seed: int | Sequence[int] | None,
    on_step: Callable[[StepEvent], None] | None,
) -> DecodingOptions:
    """The options of a run in their own types; a selector's own configuration where none is given.

    Args:
        function: The way in, for messages.
        model: The transformers model, where it is known already.
        s2t: See `s2t_ext.generate`, as for the others.
        selector: The score head.
        teacher: The large model.
        seed: Key of all random numbers.
        on_step: Called after every step.
    """
    config = as_config(s2t, function)
    chosen = as_selector(selector, model, function)
    if config is None:
        config = (chosen.decoding if chosen is not None else None) or S2TConfig()
    return DecodingOptions(config, chosen, as_teacher(teacher, function), seed, on_step)


def as_config(s2t: S2TConfig | Mapping[str, Any] | None, function: str) -> S2TConfig | None:
    """The options, also from a dictionary of them.

    Raises:
        ValueError: for anything else, in the name of `function`.
    """
    if isinstance(s2t, Mapping):
        return S2TConfig.from_dict(dict(s2t))
    _require(
        s2t is None or isinstance(s2t, S2TConfig),
        function,
        "s2t must be a S2TConfig, a dictionary of its options or None",
        s2t,
    )
    return s2t


def as_selector(
    selector: Selector | str | Path | None, model: nn.Module | None, function: str
) -> Selector | None:
    """The selector, also from a folder, a hub repository or a shipped selector's name.

    Args:
        selector: What the caller gave.
        model: The model it will select for, which gets its adapter; None loads only selectors
            without one.
        function: The caller's name, for messages.

    Raises:
        ValueError: for anything else.
    """
    if not isinstance(selector, (str, Path)):
        _require(
            selector is None or isinstance(selector, Selector),
            function,
            "selector must be a Selector, its folder or hub repository, or None",
            selector,
        )
        return selector
    if model is None:
        return Selector.from_pretrained(selector)
    plain = unwrap_model(model)
    known = _loaded.setdefault(plain, {})
    name = str(selector)
    if name not in known:
        known[name] = Selector.from_pretrained(selector, plain)
    return known[name]


def as_teacher(teacher: Teacher | PreTrainedModel | None, function: str) -> Teacher | None:
    """The teacher, also from a causal language model of transformers.

    Raises:
        ValueError: for anything else, in the name of `function`.
    """
    if isinstance(teacher, nn.Module):
        return Teacher.from_model(teacher)
    _require(
        teacher is None or isinstance(teacher, Teacher),
        function,
        "teacher must be a Teacher, a causal language model or None",
        teacher,
    )
    return teacher


def check_prompt_type(inputs: Any, function: str) -> None:
    """Raises ValueError for a prompt that is neither ids nor a tokenizer's output."""
    _require(
        inputs is None or isinstance(inputs, (torch.Tensor, Mapping)),
        function,
        "inputs must be ids, int64 [batch, length], or a tokenizer's output "
        '(tokenizer(texts, return_tensors="pt", padding=True))',
        inputs,
    )


def _require(condition: bool, function: str, rule: str, value: Any) -> None:
    if not condition:
        raise ValueError(f"{function}: {rule}, got {type(value).__name__}")
