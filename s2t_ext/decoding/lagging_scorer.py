"""Proposal-preserving selection: the base model generates, the adapted model only scores, from a
cache of its own.

The adapted cache lags behind: untriggered steps cost nothing, and a triggered step takes the tokens
emitted since the last one and the K candidates through the adapted model in one forward (design,
section 2.5).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from transformers import Cache, PreTrainedModel

from s2t_ext.decoding.steps.candidate_step import CandidateStep
from s2t_ext.decoding.steps.self_test import restarts_prefix
from s2t_ext.hf.adapters import AdapterSwitch
from s2t_ext.hf.context import CandidateContext


class LaggingScorer:
    """Runs a candidate step on the adapted model, with a cache that is caught up only when a choice
    is due.

    Args:
        step: The candidate step to run with the adapter on.
        switch: The model's adapters; off outside `forward`.
        new_cache: Makes an empty cache for the adapted model.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        step: CandidateStep,
        switch: AdapterSwitch,
        new_cache: Callable[[], Cache],
    ) -> None:
        self.model = model
        self.step = step
        self.switch = switch
        self._new_cache = new_cache
        self._cache = new_cache()
        self._seen = 0

    def forward(
        self, base: CandidateContext, candidates: torch.Tensor, needed: torch.Tensor
    ) -> torch.Tensor:
        """Hidden states [batch, K, D] of the adapted model after each candidate; `base` is the base
        model's context.
        """
        context = CandidateContext(
            cache=self._cache,
            input_ids=base.input_ids,
            num_pending=base.input_ids.shape[1] - self._seen,
            attention_mask=base.attention_mask,
            position_ids=base.position_ids,
            model_kwargs=base.model_kwargs,
        )
        if self._seen and restarts_prefix(self.model, context):
            # The cached keys belong to another rope: take everything through the model again.
            context = replace(context, cache=self._new_cache(), num_pending=base.input_ids.shape[1])
        with self.switch.on():
            return self.step.forward(context, candidates, needed)

    def commit(self, slot: torch.Tensor, sequence_length: int) -> None:
        """Keeps the winners; `sequence_length` counts the tokens so far, the winners included."""
        self._cache = self.step.commit(slot, need_logits=False).cache
        self._seen = sequence_length
