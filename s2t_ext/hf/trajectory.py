"""The student's support at every step of a finished trajectory, in one prefill."""

from __future__ import annotations

from typing import Any

import torch

from s2t_ext import ops
from s2t_ext.hf.identity import vocabulary_size
from s2t_ext.hf.logits_head import LogitsHead

#: Steps whose vocabulary-wide logits are held at a time.
CHUNK = 128


@torch.no_grad()
def trajectory_support(
    model: Any, head: LogitsHead, ids: torch.Tensor, first: int, size: int
) -> ops.ProposedCandidates:
    """The student's `size` best tokens at every step of a trajectory, in one prefill.

    Args:
        ids: int64 [length].
        first: Index of the first token that was generated.

    Returns:
        `ProposedCandidates` with one row per step, without ever holding [length, V] logits (unless
        the model has a head only it knows how to use).
    """
    if head.body is None:
        states = model(input_ids=ids[None, :-1], use_cache=False).logits[0, first - 1 :]
    else:
        states = head.body(input_ids=ids[None, :-1], use_cache=False).last_hidden_state[0]
        states = states[first - 1 :]
    size = min(size, vocabulary_size(model))
    parts = []
    for begin in range(0, states.shape[0], CHUNK):
        some = states[begin : begin + CHUNK]
        logits = some if head.body is None else head.logits(some)
        parts.append(ops.propose_candidates(logits.contiguous(), size, size))
    return ops.ProposedCandidates._make(torch.cat(c) for c in zip(*parts, strict=True))
