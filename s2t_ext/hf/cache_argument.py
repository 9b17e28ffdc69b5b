"""The keyword by which models take and return their cache.

transformers 5.24 renamed `past_key_values` (and Mamba's `cache_params`) to `cache`. Its public
functions still take the old name, with a warning; what lies below them does not.
"""

from __future__ import annotations

import inspect
from typing import Any

from transformers import GenerationMixin, PreTrainedModel
from transformers.generation.utils import ALL_CACHE_NAMES

__all__ = [
    "ALL_CACHE_NAMES",
    "CACHE_ARGUMENT",
    "STATE_NAMES",
    "cache_name",
    "cache_name_of",
    "cache_of",
]

_PARAMETERS = inspect.signature(GenerationMixin.prepare_inputs_for_generation).parameters

#: Of models with attention, and of what `generate` returns.
CACHE_ARGUMENT = "cache" if "cache" in _PARAMETERS else "past_key_values"

#: Of models whose state is of their own making, and no `Cache`.
STATE_NAMES = ("state", "mems", "past_buckets_states")


def cache_name(model_kwargs: dict[str, Any]) -> str:
    """The keyword this model takes its cache by."""
    return next((name for name in ALL_CACHE_NAMES if name in model_kwargs), CACHE_ARGUMENT)


def cache_name_of(model: PreTrainedModel) -> str:
    """The keyword this model's forward takes its cache by."""
    parameters = inspect.signature(model.forward).parameters
    return next((name for name in ALL_CACHE_NAMES if name in parameters), CACHE_ARGUMENT)


def cache_of(outputs: Any, fallback: Any = None) -> Any:
    """The cache among a model's outputs."""
    return next((outputs[name] for name in ALL_CACHE_NAMES if name in outputs), fallback)
