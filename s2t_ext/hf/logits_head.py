"""The language-model head as the decode loop uses it: hidden state -> logits, for one row per batch
instead of K.

After the head, models may scale or soft-cap their logits, and before it some scale the hidden
state. `LogitsHead` finds out numerically which of these a model does; where it cannot tell, the
whole model is run for its logits instead.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn
from transformers import PreTrainedModel


@dataclass(frozen=True)
class PostProcessing:
    """logits = softcap * tanh(scale * head(h) / softcap), or scale * head(h) without a cap."""

    scale: float = 1.0
    softcap: float | None = None

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        """Post-processes head outputs in their own dtype, as the models do."""
        if self.scale != 1.0:
            logits = logits * self.scale
        if self.softcap is not None:
            logits = torch.tanh(logits / self.softcap) * self.softcap
        return logits


@dataclass
class HeadTrace:
    """What went into and came out of the head in the last forward: [batch, q, D] and [batch, q,
    V].
    """

    hidden: torch.Tensor | None = None
    output: torch.Tensor | None = None


@contextlib.contextmanager
def traced_head(model: PreTrainedModel, keep_output: bool = False) -> Iterator[HeadTrace]:
    """Records the input (and output) of the language-model head during the forwards inside it."""
    trace = HeadTrace()
    owner = threading.get_ident()

    def record(
        module: nn.Module, arguments: tuple[torch.Tensor, ...], output: torch.Tensor
    ) -> None:
        if threading.get_ident() != owner:  # another generation on the same model
            return
        trace.hidden = arguments[0]
        trace.output = output if keep_output else None

    handle = model.get_output_embeddings().register_forward_hook(record)
    try:
        yield trace
    finally:
        handle.remove()


@dataclass(frozen=True)
class LogitsHead:
    """How to get from the decoder body to logits.

    Attributes:
        body: The model without its head; its last_hidden_state is what the head reads. None: run
            the whole model.
        post: Post-processing between the head's output and the model's logits.
    """

    model: PreTrainedModel
    body: nn.Module | None
    post: PostProcessing

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Logits [batch, V] of hidden states [batch, D]; only if `body` is known."""
        return self.post.apply(self.model.get_output_embeddings()(hidden))


@torch.no_grad()
def find_logits_head(model: PreTrainedModel) -> LogitsHead:
    """Compares body, head and model on four tokens."""
    head = model.get_output_embeddings()
    ids = (
        torch.arange(4, device=head.weight.device)[None]
        if hasattr(head, "weight")
        else torch.arange(4)[None]
    )
    with traced_head(model, keep_output=True) as trace:
        logits = model(input_ids=ids, use_cache=False).logits
    assert trace.hidden is not None and trace.output is not None
    post = _find_post_processing(model, trace.output, logits)
    if post is None:
        return LogitsHead(model, None, PostProcessing())
    body = model.base_model
    output = body(input_ids=ids, use_cache=False)
    hidden = getattr(output, "last_hidden_state", None)
    if hidden is None or hidden.shape != trace.hidden.shape or not _close(hidden, trace.hidden):
        return LogitsHead(model, None, post)
    return LogitsHead(model, body, post)


def _find_post_processing(
    model: PreTrainedModel, output: torch.Tensor, logits: torch.Tensor
) -> PostProcessing | None:
    if output.shape != logits.shape:
        return None
    config = model.config.get_text_config(decoder=True)
    scales = [1.0]
    for name in ("logits_scaling", "logit_scale", "lm_head_multiplier", "logits_scale"):
        value = getattr(config, name, None)
        if isinstance(value, (int, float)) and value:
            scales += [1.0 / value, float(value)]
    softcaps: list[float | None] = [None]
    value = getattr(config, "final_logit_softcapping", None)
    if value:
        softcaps.append(float(value))
    every = [PostProcessing(scale, softcap) for scale in scales for softcap in softcaps]
    # The closest one: a cap changes small logits by less than low precision does.
    post = min(every, key=lambda post: _difference(post.apply(output), logits))
    return post if _close(post.apply(output), logits) else None


def _difference(actual: torch.Tensor, expected: torch.Tensor) -> float:
    """Largest, relative to the largest value."""
    scale = expected.abs().max().clamp(min=1e-6)
    return float((actual.to(expected) - expected).abs().max() / scale)


def _close(actual: torch.Tensor, expected: torch.Tensor) -> bool:
    low_precision = expected.dtype in (torch.float16, torch.bfloat16)
    return _difference(actual, expected) <= (2e-2 if low_precision else 1e-5)
