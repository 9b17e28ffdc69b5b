"""What every way of running K candidates through the model has in common."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

import torch
from transformers import Cache

from s2t_ext.hf.context import CandidateContext


class Committed(NamedTuple):
    """The state after a commit: cache, logits [batch, V] and head input [batch, D] of the winners
    (None if not asked for).

    `undo` takes the winners out of a cache that cannot be cropped; None for one that can.
    """

    cache: Cache
    logits: torch.Tensor | None
    hidden: torch.Tensor | None
    undo: Callable[[], None] | None = None


class CandidateStep(Protocol):
    """One candidate forward, in two halves: first the hidden states, then, when a slot has won, the
    commit.
    """

    #: Forward passes of the last `forward`, and tokens they took through the model.
    forward_passes: int
    tokens: int

    def forward(
        self, context: CandidateContext, candidates: torch.Tensor, needed: torch.Tensor
    ) -> torch.Tensor:
        """Hidden states the head reads after each candidate.

        Args:
            candidates: int64 [batch, K], all valid ids; a row that needs no choice repeats its own
                token.
            needed: Bool [batch], the rows whose K slots matter; of the others only slot 0 does.

        Returns:
            [batch, K, D] in the model's dtype. Slots that do not matter hold unspecified finite
            values.
        """
        ...

    def commit(self, slot: torch.Tensor, *, need_logits: bool = True) -> Committed:
        """Keeps the winners (int64 [batch]) in the cache."""
        ...
