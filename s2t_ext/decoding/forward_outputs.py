"""Attentions and hidden states of the student's forwards, as `generate` returns them where it is
asked to.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from transformers import GenerationConfig

#: Their dimensions from the batch's on: [.., batch, heads, q, keys] and [.., batch, q, D]. Before
#: these, a model may have a dimension of its own.
_DIMENSIONS = {"attentions": 4, "hidden_states": 3}


def asked_outputs(generation_config: GenerationConfig) -> list[str]:
    """Names of the outputs of every forward that the result is to hold."""
    if not generation_config.return_dict_in_generate:
        return []
    return [name for name in _DIMENSIONS if getattr(generation_config, f"output_{name}")]


class ForwardOutputs:
    """What is kept of the forwards: of the prompt's, then of each that gave the next logits.

    Args:
        generation_config: Says what is asked for.
    """

    def __init__(self, generation_config: GenerationConfig) -> None:
        self._kept: dict[str, list[Any]] = {name: [] for name in asked_outputs(generation_config)}

    def add(self, outputs: Mapping[str, Any]) -> None:
        """Keeps what is asked for of one forward's outputs."""
        for name, kept in self._kept.items():
            kept.append(outputs.get(name))

    def of_steps(self, steps: int) -> dict[str, tuple[Any, ...]]:
        """What the first `steps` tokens were taken from; a choice in the last step has looked one
        token further.
        """
        return {name: tuple(kept[:steps]) for name, kept in self._kept.items()}


def given_outputs(outputs: Mapping[str, Any], model_kwargs: dict[str, Any]) -> dict[str, Any]:
    """What `generate` has asked this forward for, by name."""
    return {n: outputs.get(n) for n in _DIMENSIONS if model_kwargs.get(f"output_{n}")}


def outputs_of_rows(outputs: dict[str, Any], rows: torch.Tensor) -> dict[str, Any]:
    """The same of the rows int64 [n] alone."""
    return {name: _take(value, rows, _DIMENSIONS[name]) for name, value in outputs.items()}


def _take(value: Any, rows: torch.Tensor, dimensions: int) -> Any:
    """The rows of every tensor; models nest them by layers, and some layers give None."""
    if isinstance(value, torch.Tensor):
        return value.index_select(value.dim() - dimensions, rows.to(value.device))
    if isinstance(value, (tuple, list)):
        return tuple(_take(entry, rows, dimensions) for entry in value)
    return value
