"""Proposal-preserving selection: the base model generates, the adapted model only scores, from a
cache of its own.

The adapted cache lags behind: untriggered steps cost nothing, and a triggered step takes the tokens
emitted since the last one and the K candidates through the adapted model in one forward.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from transformers import Cache, PreTrainedModel

from s2t_ext.decoding.steps.candidate_step import (
    CandidateForward,
    CandidateStep,
    Committed,
    restarts_prefix,
)
from s2t_ext.hf.adapters import AdapterSwitch
from s2t_ext.hf.context import CandidateContext


class LaggingScorer:
    """A candidate step on the adapted model, with a cache that is caught up only when a choice is
    due.

    Args:
        model: The student, with its adapter.
        step: The candidate step to run with the adapter on.
        switch: The model's adapters; off outside `forward`.
        new_cache: Makes an empty cache for the adapted model; None where none is to be used.
    """

    wants_candidate_cache = False

    def __init__(
        self,
        model: PreTrainedModel,
        step: CandidateStep,
        switch: AdapterSwitch,
        new_cache: Callable[[], Cache | None],
    ) -> None:
        self.model = model
        self.step = step
        self.switch = switch
        self.mode = step.mode
        self._new_cache = new_cache
        self._cache = new_cache()
        self._seen = 0

    def fits(self, context: CandidateContext, k: int) -> bool:
        """See `CandidateStep.fits`; its own cache takes whatever there is."""
        return True

    def forward(
        self, context: CandidateContext, candidates: torch.Tensor, needed: torch.Tensor
    ) -> ScorerForward:
        """See `CandidateStep.forward`; `context` is the base model's."""
        own = CandidateContext(
            cache=self._cache,
            input_ids=context.input_ids,
            num_pending=context.input_ids.shape[1] - self._seen,
            attention_mask=context.attention_mask,
            position_ids=context.position_ids,
            model_kwargs=context.model_kwargs,
            padded=context.padded,
        )
        if self._seen and restarts_prefix(self.model, own):
            # The cached keys belong to another rope: take everything through the model again.
            own = replace(own, cache=self._new_cache(), num_pending=own.input_ids.shape[1])
        with self.switch.on():
            return ScorerForward(self.step.forward(own, candidates, needed), self, context)

    def caught_up(self, cache: Cache | None, length: int) -> None:
        """The adapted model has seen `length` tokens."""
        self._cache, self._seen = cache, length


@dataclass(frozen=True)
class ScorerForward:
    """See `CandidateForward`: the winners enter the scorer's cache; the base model, whose logits
    come next, has not seen them.
    """

    forward: CandidateForward
    scorer: LaggingScorer
    base: CandidateContext

    @property
    def hidden(self) -> torch.Tensor:
        """Of the adapted model."""
        return self.forward.hidden

    @property
    def tokens(self) -> int:
        """Through the adapted model."""
        return self.forward.tokens

    @property
    def passes(self) -> int:
        """Of the adapted model."""
        return self.forward.passes

    def of_candidates(self, states: torch.Tensor) -> torch.Tensor:
        """Of the adapted model."""
        return self.forward.of_candidates(states)

    def commit(self, slot: torch.Tensor, *, need_logits: bool = True) -> Committed:
        """See `CandidateForward.commit`; never gives logits."""
        cache = self.forward.commit(slot, need_logits=False).cache
        self.scorer.caught_up(cache, self.base.input_ids.shape[1] + 1)
        return Committed(self.base.cache, None, None)
