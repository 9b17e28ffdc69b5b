"""The states of a middle layer in the engine's forward passes, for selectors that score those."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from s2t_ext.hf.layer_trace import layer_among


class LayerStates:
    """Keeps what a decoder layer puts out, in a buffer of that layer: compiled forwards and CUDA
    graphs write it as they write a cache.

    Args:
        model: vLLM's model, loaded and not yet run.
        layer: The layer's number, the first is 1 (`Selector.layer`).
        layers: How many the model has.
        rows: The most tokens of a forward pass.
        size: The hidden size.

    Raises:
        ValueError: if the model has no such layer, or does not keep its layers in one list.
    """

    def __init__(self, model: nn.Module, layer: int, layers: int, rows: int, size: int) -> None:
        module = layer_among(model, layer, layers, "s2t_ext.vllm")
        weight = next(module.parameters())
        unwritten = torch.full((rows, size), float("nan"), dtype=weight.dtype, device=weight.device)
        module.register_buffer("s2t_states", unwritten, persistent=False)
        module.register_forward_hook(_keep)
        self._module, self._is_written = module, False

    def of(self, states: torch.Tensor) -> torch.Tensor:
        """Those of the last forward pass, in the order of what the head reads, [n, hidden size].

        Raises:
            RuntimeError: if the forward pass was compiled without the hook.
        """
        kept: torch.Tensor = self._module.s2t_states[: states.shape[0]]  # type: ignore[index]
        if not self._is_written:
            if bool(kept[:1].isnan().any()):
                raise RuntimeError(
                    "s2t_ext.vllm: the compiled forward does not show the layer of the selector "
                    "(start it with enforce_eager)"
                )
            self._is_written = True
        return kept


def _keep(module: Any, inputs: Any, output: Any) -> None:
    """vLLM's layers put out a state, or a state and the residual that the next layer adds."""
    hidden = output
    if isinstance(output, tuple):
        hidden = output[0] if output[1] is None else output[0] + output[1]
    module.s2t_states[: hidden.shape[0]].copy_(hidden)
