"""The tree step on a static cache: the same shapes in every step, so that the forward can be
compiled, and on a GPU be replayed as a CUDA graph.

The one-token forward is transformers' own (`get_compiled_call`); this is its K-token sibling. What
changes from step to step is in tensors: the mask is built outside of the compiled forward, from the
length the cache keeps on the device, and nothing here waits for the device. Sliding-window layers
evict while they write and cannot take K alternatives; their caches go to `ExpandStep`. A learned
trigger reads the hidden state by a hook, which `fullgraph=True` does not take.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from transformers import Cache

from s2t_ext import ops
from s2t_ext.decoding.steps.candidate_step import Committed, restarts_prefix
from s2t_ext.hf.attention.candidate_attention import attention_implementation
from s2t_ext.hf.cache_argument import CACHE_ARGUMENT
from s2t_ext.hf.cache_layers import DummyLayer, StaticLayer
from s2t_ext.hf.context import CandidateContext
from s2t_ext.hf.logits_head import LogitsHead

#: Attention implementations that take a mask [batch, 1, K, cache length].
MASKED_ATTENTION = ("sdpa", "eager")


def is_static(cache: Cache) -> bool:
    """Whether every layer keeps its keys in one static buffer of full length."""
    layers = [layer for layer in cache.layers if not isinstance(layer, DummyLayer)]
    return (
        bool(layers)
        and not cache.offloading
        and all(type(layer) is StaticLayer for layer in layers)
    )


class StaticTreeStep:
    """A candidate forward of K tokens per row; see `TreeStep`, whose results it has.

    Args:
        head: Of a model for which the tree forward is exact.
        body: Its model without the head.
        compiles: Whether it may be compiled, where the student's own forward is.
    """

    mode = "tree"
    wants_candidate_cache = True

    def __init__(self, head: LogitsHead, body: Any, *, compiles: bool = True) -> None:
        self.model = head.model
        self.head = head
        self.body = body
        self.compiles = compiles

    def fits(self, context: CandidateContext, k: int) -> bool:
        """See `CandidateStep.fits`. Known on the host: the positions count the tokens."""
        if context.position_ids is None or context.num_pending:
            return False
        room: int = min(layer.max_cache_len for layer in _layers(context.cache))
        there = context.position_ids.shape[-1] - 1
        return there + k <= room and not restarts_prefix(self.model, context)

    def forward(
        self, context: CandidateContext, candidates: torch.Tensor, needed: torch.Tensor
    ) -> StaticTreeForward:
        """See `CandidateStep.forward`; every row takes all its K slots through the model."""
        assert context.position_ids is not None  # fits()
        batch, k = candidates.shape
        body = self.body
        if context.compile_config is not None and self.compiles:
            body = compiled_body(self.body, context.compile_config)
        # Copied: a compiled forward is made for the strides it sees, and a view of the positions so
        # far has their length in its own, another one in every step.
        positions = context.position_ids[..., -1:].repeat(1, k)
        hidden = body(
            input_ids=candidates.contiguous(),
            position_ids=positions,
            attention_mask=self._mask(context, k),
            **{CACHE_ARGUMENT: context.cache},
            use_cache=True,
        ).last_hidden_state
        return StaticTreeForward(hidden, batch * k, self.head, context.cache)

    def _mask(self, context: CandidateContext, k: int) -> torch.Tensor:
        """[batch or 1, 1, K, cache length]: the prefix without its padding, and the candidate
        itself.
        """
        layer = _layers(context.cache)[0]
        column = torch.arange(layer.max_cache_len, device=layer.device)
        prefix: torch.Tensor = column < layer.cumulative_length
        own = column == layer.cumulative_length + torch.arange(k, device=layer.device)[:, None]
        real = context.token_mask
        if real is None:
            allowed: torch.Tensor = (prefix | own)[None, None]
        else:
            real = F.pad(real, (0, layer.max_cache_len - real.shape[1]), value=True)
            allowed = ((prefix & real)[:, None, :] | own)[:, None]
        if attention_implementation(self.model.config) == "sdpa":
            return allowed
        dtype = self.model.dtype
        return torch.where(allowed, 0.0, torch.finfo(dtype).min).to(dtype)


@dataclass(frozen=True)
class StaticTreeForward:
    """See `CandidateForward`; the cache holds all K candidates of every row."""

    hidden: torch.Tensor
    tokens: int
    head: LogitsHead
    cache: Cache
    passes: int = 1

    def of_candidates(self, states: torch.Tensor) -> torch.Tensor:
        """See `CandidateForward.of_candidates`."""
        return states

    def commit(self, slot: torch.Tensor, *, need_logits: bool = True) -> Committed:
        """See `CandidateForward.commit`; winners move to the first of the K places."""
        k, layers = self.hidden.shape[1], _layers(self.cache)
        start = (layers[0].cumulative_length - k).to(slot).expand_as(slot).contiguous()
        keys, values = [x.keys for x in layers], [x.values for x in layers]
        ops.commit_candidates(keys, values, slot, start, k)
        for layer in layers:
            layer.cumulative_length.sub_(k - 1)
        rows = torch.arange(slot.shape[0], device=slot.device)
        hidden = self.hidden[rows, slot]
        logits = self.head.logits(hidden) if need_logits else None

        def undo() -> None:
            for layer in layers:
                layer.cumulative_length.sub_(1)

        return Committed(self.cache, logits, hidden, undo)


def compiled_body(body: Any, compile_config: Any) -> Any:
    """`body.__call__`, compiled with transformers' options; kept with the body, once for each."""
    known: list[tuple[Any, Any]] = body.__dict__.setdefault("_s2t_compiled", [])
    for options, call in known:
        if options == compile_config:
            return call
    call = torch.compile(body.__call__, **compile_config.to_dict())
    known.append((compile_config, call))
    return call


def _layers(cache: Cache) -> list[Any]:
    return [layer for layer in cache.layers if not isinstance(layer, DummyLayer)]
