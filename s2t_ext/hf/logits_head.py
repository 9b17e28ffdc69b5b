"""The language-model head as the decode loop uses it: hidden state -> logits, for one row per batch
instead of K.

After the head, models may scale or soft-cap their logits, and before it some scale the hidden
state. `find_logits_head` finds out numerically which of these a model does, and which of its
modules is the head, by asking the modules and never their weights: a head may be quantised,
offloaded, wrapped, or called by another name. Where it cannot tell, the whole model is run for its
logits instead.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import DynamicCache, PreTrainedModel

from s2t_ext.hf.cache_argument import cache_name_of
from s2t_ext.hf.hooks import hooks_are_run
from s2t_ext.hf.model_state import find_once, findings, input_device, interference


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
    """What the head read in the last forward.

    Attributes:
        model: The name of the model's class.
        recorded: [batch, q, D], or None before the head has read anything.
    """

    model: str
    recorded: torch.Tensor | None = None

    @property
    def hidden(self) -> torch.Tensor:
        """[batch, q, D].

        Raises:
            ValueError: if the model has not called its head.
        """
        if self.recorded is None:
            raise ValueError(
                "generate: model must call its language-model head as a module where hidden states "
                f"are read, got {self.model}, which does not (set trigger='never')"
            )
        return self.recorded


@dataclass(frozen=True)
class LogitsHead:
    """How to get from the decoder body to logits.

    Attributes:
        model: The whole model.
        body: The model without its head; its last_hidden_state is what the head reads. None: run
            the whole model.
        post: Post-processing between the head's output and the model's logits.
        module: The head; None if the model shows none.
        is_called: Whether the model calls its head as a module, so that a hook sees its input; a
            model may multiply by the head's weight itself.
    """

    model: PreTrainedModel
    body: nn.Module | None
    post: PostProcessing
    module: nn.Module | None = None
    is_called: bool = True

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Logits [batch, V] of hidden states [batch, D]; only if `body` is known."""
        assert self.module is not None
        return self.post.apply(self.module(hidden))

    @contextlib.contextmanager
    def tracing(self) -> Iterator[HeadTrace]:
        """Records what the head reads during the forwards inside it, in this thread."""
        source = self.module if self.is_called else self.body
        if source is None:
            raise ValueError(
                "generate: model must have a language-model head that is a module of its own where "
                f"hidden states are read, got {type(self.model).__name__} (set trigger='never')"
            )
        trace = HeadTrace(type(self.model).__name__)
        owner = threading.get_ident()

        def record(module: nn.Module, arguments: tuple[Any, ...], output: Any) -> None:
            if threading.get_ident() == owner:  # else another generation on the same model
                trace.recorded = arguments[0] if self.is_called else output.last_hidden_state

        handle = source.register_forward_hook(record)
        try:
            with hooks_are_run(self.model, source):
                yield trace
        finally:
            handle.remove()


def find_logits_head(model: PreTrainedModel, known: dict[Any, Any] | None = None) -> LogitsHead:
    """Compares body, head and model on four tokens, once per state of the model.

    Nothing is run where the caller's hooks would run too: such a model is always run as a whole.

    Args:
        model: The whole model.
        known: Its `findings`, where the caller has them and knows of no `interference`.
    """
    if known is None:
        if interference(model) is not None:
            return untested_head(model)
        known = findings(model)
    return find_once(model, known, "the head", lambda: _find(model), lambda _: untested_head(model))


def untested_head(model: PreTrainedModel) -> LogitsHead:
    """The head as the model names it, with nothing known about it."""
    return LogitsHead(model, None, PostProcessing(), output_head(model))


def output_head(model: PreTrainedModel) -> nn.Module | None:
    """The head as the model names it; None if it names none."""
    return _named(model.get_output_embeddings)


@contextlib.contextmanager
def gapless_head_input(head: nn.Module | None) -> Iterator[None]:
    """The head reads a copy without gaps, inside the block and in this thread.

    The last positions of a longer forward are a view with gaps. torch multiplies that row by row
    where the weight needs no gradient, on a CPU in bfloat16, which is far slower.
    """
    if head is None:
        yield
        return
    owner = threading.get_ident()

    def copy(module: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...] | None:
        if threading.get_ident() != owner or not arguments:
            return None
        return arguments[0].contiguous(), *arguments[1:]

    handle = head.register_forward_pre_hook(copy)
    try:
        yield
    finally:
        handle.remove()


def input_embedding(model: PreTrainedModel) -> nn.Module | None:
    """The embedding as the model names it; None if it names none."""
    return _named(model.get_input_embeddings)


def _named(getter: Any) -> nn.Module | None:
    """What a getter of the model returns; remote code may have no such module, or not say which."""
    try:
        module: Any = getter()
    except (NotImplementedError, AttributeError):
        return None
    found: nn.Module | None = module if isinstance(module, nn.Module) else None
    return found


def _find(model: PreTrainedModel) -> LogitsHead:
    inputs = probe_inputs(model)
    calls: list[tuple[nn.Module, Any, Any]] = []
    with hooks_are_run(*model.modules()), _recorded_calls(model, calls):
        logits = model(**inputs).logits
    named = output_head(model)
    for module, hidden, output in reversed(calls):
        if named is not None and module is not named:
            continue
        post = _find_post_processing(model, output, logits)
        if post is not None:
            return LogitsHead(model, _body_before(model, hidden), post, module)
    if named is None:
        return LogitsHead(model, None, PostProcessing())
    if any(module is named for module, _, _ in calls):  # post-processing nobody knows
        return LogitsHead(model, None, PostProcessing(), named)
    return _never_called(model, named, logits)


def _never_called(model: PreTrainedModel, head: nn.Module, logits: torch.Tensor) -> LogitsHead:
    """A model that multiplies by its head's weight itself: what its body returns is what the head
    reads, if the head makes the model's logits of it.
    """
    hidden = _last_hidden_state(model.base_model, probe_inputs(model), logits.shape[1])
    post = None if hidden is None else _find_post_processing(model, head(hidden), logits)
    if post is None:
        return LogitsHead(model, None, PostProcessing(), None)
    return LogitsHead(model, model.base_model, post, head, is_called=False)


def _body_before(model: PreTrainedModel, head_input: torch.Tensor) -> nn.Module | None:
    """The model without its head, if what it returns is what the head reads."""
    body: nn.Module = model.base_model
    if body is model:
        return None
    hidden = _last_hidden_state(body, probe_inputs(model), head_input.shape[1])
    if hidden is None or hidden.shape != head_input.shape or not _close(hidden, head_input):
        return None
    return body


def _last_hidden_state(
    body: nn.Module, inputs: dict[str, Any], positions: int
) -> torch.Tensor | None:
    """Of the last `positions` tokens; the head may read no others."""
    hidden: torch.Tensor | None = getattr(body(**inputs), "last_hidden_state", None)
    return None if hidden is None else hidden[:, -positions:]


def probe_inputs(model: PreTrainedModel) -> dict[str, Any]:
    """Four tokens as `generate` would pass them: with a mask, positions and an empty cache."""
    ids = torch.arange(4, device=input_device(model))[None]
    cache = DynamicCache(config=model.config.get_text_config(decoder=True))
    inputs: dict[str, Any] = model.prepare_inputs_for_generation(
        ids,
        is_first_iteration=True,
        attention_mask=torch.ones_like(ids),
        position_ids=ids,
        use_cache=True,
        **{cache_name_of(model): cache},
    )
    return inputs


@contextlib.contextmanager
def _recorded_calls(model: nn.Module, calls: list[tuple[nn.Module, Any, Any]]) -> Iterator[None]:
    """Appends (module, first argument, output) of every module called with and returning tensors
    of three dimensions."""
    owner = threading.get_ident()

    def record(module: nn.Module, arguments: tuple[Any, ...], output: Any) -> None:
        if threading.get_ident() != owner or not arguments:
            return
        if all(isinstance(x, torch.Tensor) and x.dim() == 3 for x in (arguments[0], output)):
            calls.append((module, arguments[0], output))

    handles = [module.register_forward_hook(record) for module in model.modules()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


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
