"""Switching a PEFT adapter off and on inside a decode step (proposal-preserving selection needs
both, every step).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from torch import nn


class AdapterSwitch:
    """Turns all adapter layers of a model off and on in microseconds.

    PEFT's own `disable_adapter()` walks all modules and resets gradient flags, which costs as much
    as a forward pass of a small model; this writes the flag those functions end up writing, on a
    list collected once, and reads it back through PEFT's property, so a PEFT that changes the
    mechanism is noticed instead of silently decoding with the wrong weights.

    Raises:
        ValueError: if the model has no adapter layers, or they are merged.
    """

    def __init__(self, model: nn.Module) -> None:
        self._layers = adapter_layers(model)
        if not self._layers:
            raise ValueError(
                "generate: model must have an unmerged PEFT adapter for proposer='base', got none"
            )
        if any(getattr(layer, "merged", False) for layer in self._layers):
            raise ValueError(
                "generate: adapter must be unmerged for proposer='base', got a merged one: "
                "call unmerge_adapter()"
            )

    @contextlib.contextmanager
    def off(self) -> Iterator[None]:
        """The base model, inside the block."""
        before = [layer.__dict__.get("_disable_adapters", False) for layer in self._layers]
        self._set([True] * len(before))
        try:
            yield
        finally:
            self._set(before)

    @contextlib.contextmanager
    def on(self) -> Iterator[None]:
        """The adapted model, inside the block."""
        before = [layer.__dict__.get("_disable_adapters", False) for layer in self._layers]
        self._set([False] * len(before))
        try:
            yield
        finally:
            self._set(before)

    def _set(self, disabled: list[bool]) -> None:
        for layer, value in zip(self._layers, disabled, strict=True):
            layer.__dict__["_disable_adapters"] = value
        first = self._layers[0]
        if first.disable_adapters != disabled[0]:
            raise RuntimeError(
                "generate: this version of peft switches adapters differently; proposer='base' "
                "is unavailable"
            )


def adapter_layers(model: nn.Module) -> list[Any]:
    """The modules of a model that hold adapter weights; empty without peft."""
    try:
        from peft.tuners.tuners_utils import BaseTunerLayer
        from peft.utils.other import AuxiliaryTrainingWrapper
    except ImportError:
        return []
    return [m for m in model.modules() if isinstance(m, (BaseTunerLayer, AuxiliaryTrainingWrapper))]


def has_adapter(model: nn.Module) -> bool:
    """Whether the model holds adapter layers."""
    return bool(adapter_layers(model))
