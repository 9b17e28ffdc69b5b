"""A finished trajectory read in one forward pass, its logits a few rows at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from s2t_ext import ops
from s2t_ext.hf.identity import vocabulary_size
from s2t_ext.hf.logits_head import LogitsHead
from s2t_ext.hf.model_state import input_device

#: Steps whose vocabulary-wide logits are held at a time.
CHUNK = 128


@torch.no_grad()
def trajectory_logits(
    model: Any,
    head: LogitsHead,
    ids: torch.Tensor,
    first: int,
    *,
    steps: Sequence[int] | None = None,
    chunk: int = CHUNK,
) -> Iterator[torch.Tensor]:
    """The model's logits of the tokens of a trajectory, in one forward pass.

    [length, V] logits are never held, unless only the model itself knows how to use its head.

    Args:
        model: A transformers model, not wrapped.
        head: Its `find_logits_head`.
        ids: int64 [length], the tokens that are read: of a finished trajectory all but the last,
            which predicts nothing that is asked for.
        first: Tokens before the first one to be predicted, 1..length.
        steps: Which tokens after `first` are to be predicted, ascending; None: `first` and all
            after it, length - first + 1.
        chunk: Rows of a piece.

    Yields:
        [at most chunk, V], row after row the logits of the next token of each step.
    """
    inputs = ids[None].to(input_device(model))
    if head.body is None:
        states = logits_of(model(input_ids=inputs, use_cache=False))[0, first - 1 :]
    else:
        states = head.body(input_ids=inputs, use_cache=False).last_hidden_state[0, first - 1 :]
    if steps is not None:
        states = states[list(steps)]
    for begin in range(0, states.shape[0], chunk):
        some = states[begin : begin + chunk]
        yield some if head.body is None else head.logits(some)


def logits_of(outputs: Any, function: str = "generate", argument: str = "model") -> torch.Tensor:
    """[batch, length, V] of what a model returned.

    Raises:
        ValueError: if that has no names.
    """
    logits: torch.Tensor | None = getattr(outputs, "logits", None)
    if logits is None:
        raise ValueError(
            f"{function}: {argument} must return its outputs by name, as with return_dict=True, "
            f"got {type(outputs).__name__}"
        )
    return logits


def trajectory_support(
    model: Any,
    head: LogitsHead,
    ids: torch.Tensor,
    first: int,
    size: int,
    *,
    steps: Sequence[int] | None = None,
    blocked: torch.Tensor | None = None,
) -> ops.ProposedCandidates:
    """The student's `size` best tokens at every step of a trajectory.

    Args:
        model: As in `trajectory_logits`.
        head: As in `trajectory_logits`.
        ids: As in `trajectory_logits`.
        first: As in `trajectory_logits`.
        size: Tokens per step, 1..64; no more than the vocabulary has.
        steps: As in `trajectory_logits`.
        blocked: int64, ids that are never proposed.

    Returns:
        `ProposedCandidates` with one row per step; the entropy is taken over the same tokens.
    """
    size = min(size, vocabulary_size(model))
    parts = [
        ops.propose_candidates(logits.contiguous(), size, size, blocked)
        for logits in trajectory_logits(model, head, ids, first, steps=steps)
    ]
    return ops.ProposedCandidates._make(torch.cat(c) for c in zip(*parts, strict=True))
