"""Hidden states of a decoder layer other than the last, as a score head may read them."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from s2t_ext.hf.hooks import hooks_are_run
from s2t_ext.hf.logits_head import HeadTrace
from s2t_ext.hf.unwrapping import unwrap_model


def decoder_layer(model: nn.Module, number: int) -> nn.Module:
    """A decoder layer by its number, the first is 1. Its output is what most models return as
    `hidden_states[number]`.

    Args:
        model: A causal language model, PEFT-wrapped or not.
        number: 1 to the number of its layers - 1: the last hidden state is what the head reads,
            behind the last norm.

    Raises:
        ValueError: if the model has no such layer, or does not show its layers as one list.
    """
    plain = unwrap_model(model)
    count = plain.config.get_text_config(decoder=True).num_hidden_layers
    return layer_among(plain.get_decoder(), number, count, "generate")


def layer_among(decoder: nn.Module, number: int, count: int, where: str) -> nn.Module:
    """`decoder_layer` of a module that holds `count` layers; `where` begins the message."""
    if not 1 <= number < count:
        raise ValueError(
            f"{where}: selector must read a layer from 1 to {count - 1} of the model's {count}, "
            f"got {number}"
        )
    for module in decoder.modules():
        if isinstance(module, nn.ModuleList) and len(module) == count:
            return module[number - 1]
    raise ValueError(
        f"{where}: model must keep its decoder layers in one list where a selector reads one of "
        f"them, got {type(decoder).__name__}"
    )


@contextlib.contextmanager
def tracing_layer(layer: nn.Module, *around: nn.Module) -> Iterator[HeadTrace]:
    """Records what a decoder layer puts out in the forwards inside it, in this thread.

    Args:
        layer: The layer.
        around: Modules that hold it, which the caller may have compiled.
    """
    trace = HeadTrace(type(layer).__name__)
    owner = threading.get_ident()

    def record(module: nn.Module, arguments: tuple[Any, ...], output: Any) -> None:
        if threading.get_ident() == owner:  # else another generation on the same model
            hidden: torch.Tensor = output[0] if isinstance(output, tuple) else output
            if hidden.dim() != 3:
                raise ValueError(
                    "generate: model must have decoder layers that put out [batch, length, D] "
                    f"where a selector reads one, got {list(hidden.shape)} in {trace.model}"
                )
            trace.recorded = hidden

    handle = layer.register_forward_hook(record)
    try:
        with hooks_are_run(layer, *around):
            yield trace
    finally:
        handle.remove()
